"""validate: whether the device is correct, and what the decomposition cost."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amct_pytorch.backend import Tolerance, get_backend
from amct_pytorch.errors import (
    AmctError,
    BackendUnavailable,
    ConfigError,
    DeviceError,
    InputsError,
    LayerError,
    ModelError,
)
from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    EnergyRank,
    FixedRank,
    auto_decomposition,
    decompose_network,
)
from amct_pytorch.validate import validate

from .models import TwoConvs, conv, image, snapshot

CpuBackend = type(get_backend("cpu"))


def _pair(**settings: Any) -> tuple[nn.Module, nn.Module]:
    original = TwoConvs().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original), config=DecompositionConfig(**settings))
    return original, decomposed


def test_a_split_of_full_rank_costs_nothing() -> None:
    report = validate(*_pair(rank=EnergyRank(1.0), require_gain=False), image(), dtypes=[torch.float64])
    (run,) = report.runs
    assert run.output_error < 1e-5
    assert run.top1_agreement == 1
    assert all(layer.response_error < 1e-5 for layer in run.layers)


def test_the_response_error_is_that_of_the_layer_on_its_own_input() -> None:
    original, decomposed = _pair(rank=FixedRank(16))
    (run,) = validate(original, decomposed, image(), dtypes=[torch.float64]).runs
    with torch.no_grad():
        arrived = original.double().stem(image().double()).relu()
        exact, found = original.conv1(arrived), decomposed.double().conv1(arrived)
    assert run.layers[0].name == "conv1"
    assert run.layers[0].response_error == pytest.approx(float((found - exact).norm() / exact.norm()), rel=1e-6)


def test_errors_of_several_calls_are_added_up() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.idle = conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    original = Twice().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    used, idle = validate(original, decomposed, torch.randn(1, 64, 8, 8)).runs[0].layers
    assert (used.calls, used.verdict) == (2, "right")
    assert (idle.calls, idle.verdict) == (0, "did not run")


def test_a_device_that_is_wrong_is_told() -> None:
    class TooProud(CpuBackend):  # type: ignore[misc,valid-type]
        def tolerance(self, dtype: torch.dtype, device: torch.device) -> Tolerance:
            return Tolerance(norm=1e-9, worst=1e-9)

    report = validate(*_pair(), image(), TooProud())
    assert not report.ok
    assert "wrong: error" in report.text(width=400)
    assert report.runs[0].layers[0].verdict.endswith("expected at most 1.0e-09")


def test_an_overflow_in_half_precision_is_told(tmp_path: Path) -> None:
    original, decomposed = _pair()
    for model in (original, decomposed):
        model.stem.weight.data *= 1e5
    report = validate(original, decomposed, image(), dtypes=[torch.float16, torch.float32])
    half, single = report.runs
    assert "more than float16 can hold" in half.layers[0].verdict or "not finite" in half.layers[0].verdict
    assert single.layers[0].verdict == "right"
    assert not report.ok
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["runs"][0]["layers"][0]["device_error"] is None


def test_a_model_that_is_itself_a_convolution() -> None:
    original = conv().eval()
    decomposed, _ = auto_decomposition(original)
    report = validate(original, decomposed, torch.randn(64, 8, 8))
    assert report.ok
    assert "(the model)" in str(report)


class _Detector(nn.Module):
    """Returns as many rows as it detects objects."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return x[self.conv(x) > 1.3]


class _Labeller(_Detector):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).argmax(1)


@pytest.mark.parametrize("kind", [_Detector, _Labeller])
def test_outputs_that_cannot_be_compared_are_not(kind: type[nn.Module]) -> None:
    original = kind().eval()
    config = DecompositionConfig(rank=FixedRank(16))
    decomposed, _ = auto_decomposition(copy.deepcopy(original), config=config)
    report = validate(original, decomposed, torch.randn(1, 64, 8, 8))
    assert report.runs[0].output_error is None
    assert report.ok
    assert "Outputs: no floating-point tensors of the same shapes to compare." in str(report)


def test_outputs_that_are_no_scores_have_no_agreement() -> None:
    original = nn.Sequential(conv(), nn.ReLU()).eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    assert validate(original, decomposed, torch.randn(1, 64, 8, 8)).runs[0].top1_agreement is None


def test_of_two_outputs_that_look_like_scores_none_is_taken() -> None:
    class TwoHeads(TwoConvs):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            scores = super().forward(x)
            return scores, -scores

    original = TwoHeads().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    (run,) = validate(original, decomposed, image()).runs
    assert run.top1_agreement is None
    assert run.output_error is not None


def test_the_report_prints_and_is_saved_whole(tmp_path: Path) -> None:
    report = validate(*_pair(), image(), dtypes=[torch.float32, torch.bfloat16])
    text = report.text(width=400)
    for word in (
        "Validation on",
        "float32, tolerance 4.0e-06 of the device error and 2.0e-05 of the worst: threads",
        "Response error: of the decomposed",
        "bfloat16",
        "conv1",
        "top-1 agreement",
        "threads 1",
    ):
        assert word in text
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert (saved["format"], saved["version"]) == ("amct_pytorch.validation", 3)
    assert saved["runs"][1]["dtype"] == "bfloat16"
    assert saved["runs"][0]["layers"][0]["device_error"] == report.runs[0].layers[0].device_error


def test_models_generators_and_settings_stay_as_they_were() -> None:
    class Noisy(TwoConvs):
        def forward(self, x: Tensor) -> Tensor:
            np.random.rand()
            return super().forward(x + 1e-3 * torch.randn_like(x))

    original = Noisy().train()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    original.conv1.register_forward_hook(lambda *_: None)
    unchanged = [snapshot(original), snapshot(decomposed)]
    given = image()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), get_backend("cpu").settings(torch.device("cpu"))
    validate(original, decomposed, given)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), get_backend("cpu").settings(torch.device("cpu"))
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.equal(given, image())
    for check in unchanged:
        check()


def _refusals() -> dict[str, tuple[type[AmctError], str, Any]]:
    original, decomposed = _pair()
    other, _ = auto_decomposition(nn.Sequential(conv(), conv(64, 128)))
    wider = TwoConvs().eval()
    wider.conv1 = conv(64, 64, padding=0)
    bare, _ = decompose_network(TwoConvs(), _info())
    return {
        "no module": (ModelError, "original must be a torch.nn.Module, found builtins.str", ("net.pth", decomposed)),
        "wrapped": (ModelError, "is wrapped in DataParallel", (nn.DataParallel(original), decomposed)),
        "one model": (ModelError, "one and the same model: .*copy.deepcopy", (decomposed, decomposed)),
        "a copy": (
            LayerError,
            "decomposed in the same layers: .*copy.deepcopy",
            (copy.deepcopy(decomposed), decomposed),
        ),
        "nothing decomposed": (LayerError, "no layer of the decomposed model is", (original, copy.deepcopy(original))),
        "wrong order": (LayerError, "were the two given in the wrong order", (decomposed, original)),
        "other layers": (LayerError, "only the original has 'conv1', 'conv2', 'head' and 2 more", (original, other)),
        "other geometry": (LayerError, "layer 'conv1': the decomposed model has a Conv2d 64→64", (wider, decomposed)),
        "other weights": (LayerError, "nothing to do with the original's", (TwoConvs().eval(), decomposed)),
        "no weights": (LayerError, "load the weights into the decomposed model", (original, bare)),
    }


def _info() -> str:
    import tempfile

    path = Path(tempfile.mkdtemp()) / "info.json"
    auto_decomposition(TwoConvs(), path)
    return str(path)


@pytest.mark.parametrize("case", list(_refusals()))
def test_what_is_no_model_and_its_decomposed_form_is_refused(case: str) -> None:
    error, message, models = _refusals()[case]
    with pytest.raises(error, match=message):
        validate(*models, image())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "tpu"}, BackendUnavailable, "there is no backend 'tpu'. Installed backends: cpu, cuda, npu"),
        ({"backend": 3}, ConfigError, "backend must be a name or a Backend, found 3"),
        ({"index": 7}, ConfigError, "has 1 devices, numbered from 0: found index=7"),
        (
            {"dtypes": [torch.float8_e4m3fn]},
            ConfigError,
            "does not compute convolutions in float8_e4m3fn: choose among",
        ),
        ({"dtypes": [torch.int8]}, ConfigError, "does not compute convolutions in int8"),
        ({"dtypes": torch.float16}, ConfigError, "dtypes must be a list of torch.dtype, found torch.float16"),
        ({"dtypes": ["float16"]}, ConfigError, "dtypes must be a list"),
        ({"dtypes": []}, ConfigError, "dtypes must be a list"),
        ({"inputs": "cat.png"}, InputsError, "inputs must be a tensor, a tuple of arguments or a mapping"),
        ({"inputs": torch.full((1, 3, 16, 16), math.nan)}, InputsError, "hold NaN or infinity"),
        (
            {"inputs": torch.ones(1, 5, 16, 16)},
            InputsError,
            r"on cpu in float32 \(\(1, 5, 16, 16\)",
        ),
        ({"inputs": torch.ones(1, 3, 16, 16, device="meta")}, InputsError, "are on the meta device"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[AmctError], message: str) -> None:
    original, decomposed = _pair()
    unchanged = [snapshot(original), snapshot(decomposed)]
    with pytest.raises(error, match=message):
        validate(original, decomposed, **{"inputs": image(), **options})
    for check in unchanged:
        check()


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    class Stubborn(TwoConvs):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise TypeError("cannot pickle '_thread.lock' object")

    original, decomposed = Stubborn().eval(), Stubborn().eval()
    decomposed.load_state_dict(original.state_dict())
    decomposed, _ = auto_decomposition(decomposed)
    with pytest.raises(DeviceError, match=r"cannot be copied to cpu \(TypeError: .*copy.deepcopy\(model\) must"):
        validate(original, decomposed, image())


def test_a_model_that_cannot_be_moved_is_refused() -> None:
    class Rooted(TwoConvs):
        def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
            raise RuntimeError("this model is mapped from a file")

    original, decomposed = Rooted().eval(), Rooted().eval()
    decomposed.load_state_dict(original.state_dict())
    decomposed, _ = auto_decomposition(decomposed)
    with pytest.raises(DeviceError, match="cannot be moved to cpu in float32 .*mapped from a file"):
        validate(original, decomposed, image())


def test_memory_that_does_not_suffice_is_told_with_what_to_do() -> None:
    class Hungry(TwoConvs):
        def forward(self, x: Tensor) -> Tensor:
            torch.empty(2**50, dtype=torch.uint8)
            return super().forward(x)

    original = Hungry().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    with pytest.raises(DeviceError, match="memory of cpu does not suffice .* a batch of 2: give fewer"):
        validate(original, decomposed, image())
