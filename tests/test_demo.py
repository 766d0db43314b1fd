"""The shipped network and its data, and the command that shows the library on them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amct_pytorch.cli.app import execute
from amct_pytorch.cli.exit_codes import ExitCode
from amct_pytorch.demo import WEIGHTS_PATH, accuracy, load_digits_tensors, load_pretrained
from amct_pytorch.errors import MissingExtra


def test_the_shipped_network_reads_digits_and_is_small() -> None:
    net = load_pretrained()
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert not net.training
    _, _, images, labels = load_digits_tensors()
    assert accuracy(net, images, labels) > 99.5
    assert WEIGHTS_PATH.stat().st_size < 3e6


def test_without_scikit_learn_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match="pip install scikit-learn"):
        load_digits_tensors()
    assert execute(["demo", "--output", str(tmp_path / "out")]) == ExitCode.EXTRA
    assert "pip install scikit-learn" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


_FILES = {
    "decompose_info.json",
    "weights.pth",
    "plan.pt",
    "spectra.json",
    "search.json",
    "validation.json",
    "benchmark.json",
    "scores.json",
    "run.json",
    "report.html",
}


def test_the_demo_replaces_no_file_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights.pth").write_bytes(b"mine")
    assert execute(["demo", "--output", str(tmp_path)]) == ExitCode.USAGE
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "weights.pth").read_bytes() == b"mine"


@pytest.mark.slow
def test_the_demo_shows_all_steps_in_short_lines_and_leaves_a_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "amct_pytorch", "demo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert re.findall(r"^(\d) of 5  ", done.stdout, re.MULTILINE) == list("12345")
    folder = tmp_path / "amct-demo"
    assert {path.name for path in folder.iterdir()} == _FILES
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["before"] > 99.5
    assert -1 <= scores["after"] - scores["before"] < 0.5
    rows = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    assert float(rows["MACs an image"][-1].rstrip("%")) < 15
    assert float(rows["parameters"][-1].rstrip("%")) < 15
    assert re.search(r"ms, 64 images +[\d.]+ +[\d.]+ +([\d.]+× \[|unknown)", done.stdout)
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_with_json_the_demo_prints_one_object(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "amct_pytorch", "demo", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    found = json.loads(done.stdout)
    assert found["format"] == "amct_pytorch.demo"
    assert found["benchmark"]["format"] == "amct_pytorch.benchmark"
    assert "5 of 5" in done.stderr
