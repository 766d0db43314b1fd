"""What every file and folder that is put into place has in common: its mode, and that nothing is left beside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from amct_pytorch.ascend import export_ascend
from amct_pytorch.checkpoint import load_decomposed, save_decomposed
from amct_pytorch.export import export_onnx
from amct_pytorch.tensor_decompose import DecompositionConfig, plan_decomposition, save_config

from .models import TwoConvs, conv, image


@pytest.fixture(params=[0o022, 0o002, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return plan_decomposition(net := TwoConvs()).apply(net)[0].eval()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: _mode(path) for path in folder.iterdir()}


def _save_plan(path: Path) -> None:
    plan_decomposition(nn.Sequential(conv())).save(path)


def _save_report(path: Path) -> None:
    export_onnx(conv(3, 4), torch.randn(1, 3, 8, 8), path.with_suffix(".onnx")).save(path)


def _write_info(path: Path) -> None:
    plan_decomposition(net := nn.Sequential(conv())).apply(net, path)


_WRITERS: list[Callable[[Path], object]] = [
    _save_plan,
    _save_report,
    _write_info,
    lambda path: save_config(DecompositionConfig(), path),
    lambda path: export_onnx(conv(3, 4), torch.randn(1, 3, 8, 8), path),
]


@pytest.mark.parametrize("write", _WRITERS)
def test_new_files_and_folders_have_the_mode_that_the_umask_says(
    write: Callable[[Path], object], umask: int, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "file"
    write(path)
    assert _mode(path) == 0o666 & ~umask
    assert _mode(path.parent) == 0o777 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
@pytest.mark.parametrize("write", _WRITERS)
def test_a_file_that_is_replaced_passes_its_mode_on(write: Callable[[Path], object], mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    write(path)
    assert path.read_bytes() != b"old"
    assert _mode(path) == mode


def test_all_files_of_a_new_checkpoint_have_the_mode_that_the_umask_says(
    model: nn.Module, umask: int, tmp_path: Path
) -> None:
    save_decomposed(model, tmp_path / "new", plan="a plan", training_state={"epoch": 3})
    assert set(_modes(tmp_path / "new").values()) == {0o666 & ~umask}
    assert _mode(tmp_path / "new") == 0o777 & ~umask


def test_scripts_may_be_run_by_whoever_may_read_them(umask: int, tmp_path: Path) -> None:
    place = tmp_path / "deploy"
    export_ascend(conv(3, 4), torch.randn(1, 3, 8, 8), place, soc_versions=["Ascend910B3"])
    modes = _modes(place)
    assert modes["run.sh"] == modes["atc_Ascend910B3.sh"] == 0o777 & ~umask
    assert modes["model.onnx"] == modes["report.json"] == 0o666 & ~umask
    assert modes["inputs"] == _mode(place) == 0o777 & ~umask


@pytest.mark.parametrize("mode", [0o750, 0o700, 0o775])
def test_a_checkpoint_that_is_replaced_passes_its_modes_on(mode: int, model: nn.Module, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    save_decomposed(model, place)
    place.chmod(mode)
    (place / "weights.safetensors").chmod(0o640)
    (place / "manifest.json").chmod(0o664)
    before = _modes(place)
    save_decomposed(model, place, training_state={"epoch": 3})
    (tmp_path / "plain").touch()
    assert _mode(place) == mode
    assert _modes(place) == {**before, "training.pt": _mode(tmp_path / "plain")}
    assert torch.equal(load_decomposed(TwoConvs(), place)[0].eval()(image()), model(image()))


def test_a_private_checkpoint_is_private_while_it_is_written(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "checkpoint"
    save_decomposed(model, place)
    place.chmod(0o700)
    seen = []
    real = torch.save

    def watched(content: object, file: object) -> None:
        seen.extend(_mode(path) for path in tmp_path.iterdir() if path.is_dir())
        real(content, file)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "save", watched)
    save_decomposed(model, place, training_state={"epoch": 3})
    assert set(seen) == {0o700}
