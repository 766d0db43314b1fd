"""What the logger ``amct_pytorch`` says."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from amct_pytorch.tensor_decompose import (
    Budget,
    DecompositionConfig,
    auto_decomposition,
    decompose_network,
    plan_decomposition,
)

from .models import TwoConvs


def _depthwise() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 64, 1), nn.Conv2d(64, 64, 3, groups=64)
    )


def test_what_was_decomposed_and_written(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.INFO, logger="amct_pytorch"):
        auto_decomposition(TwoConvs(), tmp_path / "info.json")
    assert caplog.messages[0].startswith("layer 'conv1': separable at rank ")
    assert caplog.messages[2:] == ["2 of 3 layers are decomposed", f"wrote {tmp_path / 'info.json'}"]
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="amct_pytorch"):
        decompose_network(TwoConvs(), tmp_path / "info.json")
    assert caplog.messages == [f"{tmp_path / 'info.json'}: 2 layers rebuilt: 'conv1', 'conv2'"]


def test_what_was_chosen_for_a_budget(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="amct_pytorch"):
        plan = plan_decomposition(TwoConvs(), budget=Budget(parameters=0.5))
    assert caplog.messages == [plan.budget]


def test_why_nothing_was_decomposed(caplog: pytest.LogCaptureFixture) -> None:
    _, changes = auto_decomposition(_depthwise())
    assert not changes
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no layer was decomposed: 2 of 4, such as '1': it has 32 groups; " in record.message
    assert record.message.endswith("""; method="auto" with rule="any" can split 2 layers: '0', '2'""")


@pytest.mark.parametrize(
    "settings",
    [{"config": DecompositionConfig(layers={"re:": False})}, {"budget": Budget(parameters=1.0)}],
)
def test_nothing_is_said_of_what_was_asked_for(settings: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    auto_decomposition(nn.Sequential(nn.Conv2d(64, 64, 3)), **settings)  # type: ignore[arg-type]
    assert not caplog.records


def test_nothing_is_said_of_a_model_that_is_decomposed_already(caplog: pytest.LogCaptureFixture) -> None:
    model = TwoConvs()
    auto_decomposition(model)
    auto_decomposition(model)
    assert not caplog.records


def test_a_model_without_layers(caplog: pytest.LogCaptureFixture) -> None:
    auto_decomposition(nn.Sequential(nn.ReLU()))
    assert caplog.messages == ["no layer was decomposed: it has none that the methods in use are for"]


@pytest.mark.slow
def test_warnings_alone_are_printed_where_no_logging_is_set_up() -> None:
    program = (
        "from torch import nn; from amct_pytorch.tensor_decompose import auto_decomposition as split;"
        "split(nn.Sequential(nn.Conv2d(64, 64, 3))); split(nn.Sequential(nn.Conv2d(64, 64, 3, groups=64)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout
    assert done.stderr.startswith("no layer was decomposed: 1 of 1, such as '0': it has 64 groups")
    assert done.stderr.count("\n") == 1


class _FromPretrained(TwoConvs):
    """With the two methods that models of transformers and diffusers have."""

    def save_pretrained(self, folder: str) -> None: ...

    @classmethod
    def from_pretrained(cls, folder: str) -> None: ...


def test_a_model_that_from_pretrained_would_load_wrongly_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    keep = DecompositionConfig(layers={"re:.*": False})
    auto_decomposition(TwoConvs())
    auto_decomposition(_FromPretrained(), config=keep)
    assert caplog.messages == []
    auto_decomposition(nn.Sequential(_FromPretrained()))
    (text,) = caplog.messages
    assert text.startswith("save_pretrained of _FromPretrained writes the weights of the decomposed layers but not")
    assert "save_decomposed" in text
