"""Methods of third parties, found by the entry points of what is installed."""

from __future__ import annotations

import copy
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from amct_pytorch.errors import ConfigError
from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    RatioRank,
    auto_decomposition,
    decompose_network,
    plan_decomposition,
)
from amct_pytorch.tensor_decompose.methods import get_method, method_names, register_method
from amct_pytorch.tensor_decompose.methods.channel import Channel
from amct_pytorch.tensor_decompose.methods.registry import GROUP
from amct_pytorch.tensor_decompose.methods.separable import Separable

from .models import TwoConvs, image

TOY = """
    from amct_pytorch.tensor_decompose.methods.channel import Channel

    class ToySplit(Channel):
        name = "toy"
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Installs a distribution that has one module, with entry points of methods."""

    def installed(name: str, source: str, points: str) -> None:
        site = tmp_path / name
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(textwrap.dedent(source))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}\n")
        monkeypatch.syspath_prepend(site)

    return installed


def test_an_installed_method_is_used_by_name_in_plan_file_and_rebuild(install: object, tmp_path: Path) -> None:
    install("toy_package", TOY, "toy = toy_package:ToySplit")  # type: ignore[operator]
    assert "toy" in method_names()
    assert "toy_package" not in sys.modules
    config = DecompositionConfig(method="toy", rank=RatioRank(0.25))
    original, path = TwoConvs().eval(), tmp_path / "info.json"
    assert {layer.method for layer in plan_decomposition(original, config).layers if layer.decompose} == {"toy"}
    small, changes = auto_decomposition(copy.deepcopy(original), path, config=config)
    assert '"method": "toy"' in path.read_text()
    rebuilt, again = decompose_network(copy.deepcopy(original), path)
    rebuilt.load_state_dict(small.state_dict())
    assert again == changes
    assert torch.equal(rebuilt(image()), small(image()))


def test_a_broken_method_is_an_error_that_names_its_distribution(install: object) -> None:
    install("lame", "raise OSError('no licence')", "lame = lame:Split\nlamer = lame_too:Split")  # type: ignore[operator]
    with pytest.raises(ConfigError, match="'lame' cannot be loaded from 'lame:Split' of lame 1.0: OSError: no licence"):
        get_method("lame")
    with pytest.raises(ConfigError, match="ModuleNotFoundError"):
        plan_decomposition(TwoConvs(), DecompositionConfig(method="lamer"))
    install("wrong", "Split, Named = dict, None", "wrong-kind = wrong:Split")  # type: ignore[operator]
    with pytest.raises(ConfigError, match="TypeError: expected a subclass of .*Method, found <class 'dict'>"):
        get_method("wrong-kind")
    install("misnamed", TOY, "other = misnamed:ToySplit")  # type: ignore[operator]
    with pytest.raises(ConfigError, match="the entry point is called 'other', but the class calls itself 'toy'"):
        get_method("other")
    with pytest.raises(ConfigError, match="no decomposition method is named 'wrong-kin'; did you mean 'wrong-kind'"):
        get_method("wrong-kin")


def test_two_methods_of_one_name_are_an_error_that_names_both_and_ours_win(install: object) -> None:
    for package in ("one", "two"):
        install(f"{package}_twin", TOY.replace("toy", "twin"), f"twin = {package}_twin:ToySplit")  # type: ignore[operator]
    with pytest.raises(ConfigError, match="'twin' is installed 2 times, as .* of two_twin 1.0 and .* of one_twin 1.0"):
        get_method("twin")
    install("usurper", TOY.replace("toy", "separable"), "separable = usurper:ToySplit")  # type: ignore[operator]
    assert type(get_method("separable")) is Separable


def test_auto_is_not_a_name_for_a_method() -> None:
    class Auto(Channel):
        name = "auto"

    with pytest.raises(ConfigError, match="'auto' stands for the choice among methods"):
        register_method(Auto())
