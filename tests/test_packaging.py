"""Public names, the cost of an import, and that both READMEs are correct."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import amct_pytorch
import amct_pytorch.tensor_decompose as tensor_decompose

_ROOT = Path(__file__).resolve().parent.parent
_READMES = ["README.md", "README_zh.md"]


def test_the_version_is_that_of_the_distribution() -> None:
    assert amct_pytorch.__version__ == importlib.metadata.version("amct_pytorch")


@pytest.mark.parametrize("name", ["create_quant_config", "quantize", "INT8_SMOOTHQUANT_CFG"])
def test_names_of_huaweis_package_are_answered_with_where_they_are(name: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}': .*tensor_decompose.*another environment"):
        getattr(amct_pytorch, name)
    assert not hasattr(amct_pytorch, "__wrapped__")


def test_the_public_names_are_these() -> None:
    assert tensor_decompose.__all__ == [
        "Budget",
        "Calibration",
        "DecomposedConv1d",
        "DecomposedConv2d",
        "DecomposedConv3d",
        "DecomposedLayer",
        "DecomposedLinear",
        "DecompositionConfig",
        "DecompositionPlan",
        "EnergyRank",
        "Evaluation",
        "EvbmfRank",
        "FixedRank",
        "LayerPlan",
        "LayerSpectrum",
        "RankSpectrum",
        "RatioRank",
        "SearchResult",
        "SpectraReport",
        "auto_decomposition",
        "decompose_network",
        "layer_spectra",
        "load_config",
        "load_plan",
        "plan_decomposition",
        "save_config",
        "search_decomposition",
    ]
    assert all(getattr(tensor_decompose, name).__doc__ for name in tensor_decompose.__all__)


def test_importing_the_library_loads_nothing_heavy_or_optional() -> None:
    program = (
        "import sys, torch; known = set(sys.modules); "
        "import amct_pytorch.tensor_decompose; print(*set(sys.modules) - known)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {
        "scipy.optimize",
        "scipy.linalg",
        "torch_npu",
        "tensorly",
        "tqdm",
        "typer",
        "rich",
        "matplotlib",
        "jinja2",
        "onnx",
    }
    assert loaded & heavy == set()


def _blocks(readme: str, language: str) -> list[str]:
    text = (_ROOT / readme).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def _code(block: str) -> list[str]:
    """The lines of a block without their comments, which are translated."""
    return [re.sub(r"\s*#.*", "", line) for line in block.splitlines()]


@pytest.mark.parametrize("language", ["sh", "python", "py", "text"])
def test_both_readmes_have_the_same_code(language: str) -> None:
    english, chinese = (_blocks(readme, language) for readme in _READMES)
    assert english
    assert [_code(block) for block in english] == [_code(block) for block in chinese]


def test_both_readmes_have_the_same_figures() -> None:
    english, chinese = ((_ROOT / readme).read_text(encoding="utf-8") for readme in _READMES)
    figures = re.compile(r"\d+(?:[.,]\d+)*")
    assert sorted(figures.findall(english)) == sorted(figures.findall(chinese))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, stride=8), nn.ReLU(), nn.Conv2d(64, 64, 3))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(64, 128, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(x))


def test_the_python_of_the_readmes_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(_Net().state_dict(), "net.pth")
    names: dict[str, object] = {"Net": _Net}
    for block in _blocks("README.md", "python"):  # the other's is the same
        exec(compile(block, "README.md", "exec"), names)
    assert "decompose" in capsys.readouterr().out
    assert (tmp_path / "decompose_info.json").is_file()


@pytest.mark.slow
def test_the_shipped_example_runs_and_keeps_its_accuracy(tmp_path: Path) -> None:
    program = _ROOT / "examples" / "digits" / "decompose.py"
    command = [sys.executable, str(program), "--epochs", "1", "--output", str(tmp_path)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # fixes the order of summation, hence the accuracies
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    accuracies = dict(re.findall(r"^  (original|decomposed|fine-tuned).*? ([\d.]+) %$", done.stdout, re.MULTILINE))
    assert float(accuracies["original"]) > 99.5
    assert float(accuracies["decomposed"]) > 98
    assert float(accuracies["fine-tuned"]) > 99
    assert "gives the same outputs, bit for bit" in done.stdout
    assert {item.name for item in tmp_path.iterdir()} == {"decompose_info.json", "decomposed_weights.pth"}
    assert (_ROOT / "amct_pytorch" / "demo" / "digits.pth").stat().st_size < 3e6


@pytest.mark.slow
def test_the_benchmark_prints_its_table_and_saves_its_reports(tmp_path: Path) -> None:
    program = [sys.executable, str(_ROOT / "tools" / "benchmark.py"), "--networks", "digits", "--save", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert re.search(r"^npu: (un)?available", done.stdout, re.MULTILINE)
    row = next(line for line in done.stdout.splitlines() if line.startswith("digits"))
    # Beside other programs there is no speed-up to speak of.
    assert re.match(r"digits\s+float32\s+1\s+right\s+33%\s+[\d.]+\s+[\d.]+\s+([\d.]+× \[|unknown\s+unknown)", row)
    assert {item.name for item in tmp_path.iterdir()} == {"digits.validation.json", "digits.benchmark.json"}


@pytest.mark.slow
def test_the_speed_benchmark_prints_its_table() -> None:
    program = [sys.executable, str(_ROOT / "tools" / "speed.py"), "--only", "(256,256,3,3)", "--runs", "1"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    row = next(line for line in done.stdout.splitlines() if line.startswith("(256,256,3,3)"))
    assert re.fullmatch(r"\S+(\s+[\d.]+){2}\s+[\d.]+×(\s+[\d.]+){2}\s+\d+%", row)


@pytest.mark.slow
def test_the_accuracy_comparison_prints_its_table_and_draws_it(tmp_path: Path) -> None:
    program = [sys.executable, str(_ROOT / "tools" / "accuracy.py"), "--ratios", "0.25", "0.05"]
    done = subprocess.run(
        [*program, "--picture", str(tmp_path / "new" / "accuracy.png")], capture_output=True, text=True, check=True
    )
    full, high, low = (line.split() for line in done.stdout.splitlines()[2:])
    assert float(full[2]) > 99.5
    assert float(low[2]) < 90
    assert float(low[7]) > 99
    assert int(low[1].replace(",", "")) < int(high[1].replace(",", "")) < int(full[1].replace(",", ""))
    assert (tmp_path / "new" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
