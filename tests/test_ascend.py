"""export_ascend writes a directory that is ready for the device; Ascend's tools are replaced by stand-ins."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amct_pytorch._deploy.ascend_files import Target, target_of
from amct_pytorch._deploy.ascend_tools import Timing
from amct_pytorch.ascend import AscendReport, export_ascend
from amct_pytorch.errors import (
    AmctError,
    ConfigError,
    ConfigTypeError,
    ExportAccessError,
    ExportError,
    InputsError,
    MissingExtra,
)
from amct_pytorch.tensor_decompose import DecompositionConfig, FixedRank, auto_decomposition

from .models import TwoConvs, image, snapshot

pytestmark = pytest.mark.usefixtures("onnx_operators_read_once")

_GOLDEN = Path(__file__).parent / "atc"
_SOCS = ["Ascend910B3", "Ascend910_9391", "Ascend950PR_9599"]

# Accepts the documented options, creates the requested output file, and records its arguments.
_ATC = """#!{python}
import json, pathlib, sys
known = {{"mode", "framework", "model", "output", "soc_version", "input_format", "input_shape", "precision_mode_v2",
         "dynamic_batch_size", "dynamic_image_size", "enable_small_channel", "log"}}
options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
assert options.keys() <= known, options
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(options) + "\\n")
assert pathlib.Path(options["model"]).is_file()
if options["soc_version"] == "Ascend910_9391":
    print("ATC run failed, Please check the detail log")
    sys.exit("E10001: Value [Ascend910_9391] for parameter [soc_version] is invalid.")
pathlib.Path(options["output"] + ".om").write_text(options["model"])
print("ATC run success")
"""

# Runs the compiled file in half precision, and prints times.
_AIS_BENCH = """
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
for name in ("model", "input", "output", "output_dirname", "outfmt", "loop", "warmup_count", "dymBatch", "dymHW"):
    parser.add_argument("--" + name)
options = parser.parse_args()
source = pathlib.Path(options.model).read_text()
if options.loop:
    median = 4.5 if source.startswith("original") else 1.5
    print(f"[INFO] NPU_compute_time (ms): min = 1.0, max = 9.0, mean = 3.0, median = {median}, percentile(99%) = 8.0")
    sys.exit()
import numpy, onnxruntime
session = onnxruntime.InferenceSession(source)
arrays = [numpy.load(file) for file in options.input.split(",")]
names = [item.name for item in session.get_inputs()]
for number, values in enumerate(session.run(None, dict(zip(names, arrays, strict=True)))):
    stem = pathlib.Path(options.input.split(",")[0]).stem
    folder = pathlib.Path(options.output, options.output_dirname)
    numpy.save(folder / f"{stem}_{number}.npy", values.astype(numpy.float16))
"""


def _pair() -> tuple[nn.Module, nn.Module]:
    original = TwoConvs().eval()
    net, _ = auto_decomposition(copy.deepcopy(original), config=DecompositionConfig(rank=FixedRank(16)))
    return original, net


@pytest.fixture
def fake_atc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, str]]]:
    """Put ``atc`` on the PATH, and return the options of every call."""
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    calls.touch()
    _program(tools / "atc", _ATC.format(python=sys.executable, calls=str(calls)))
    _program(tools / "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return lambda: [json.loads(line) for line in calls.read_text().splitlines()]


@pytest.fixture
def fake_ais_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``ais_bench`` importable, here and in child processes."""
    package = tmp_path / "site" / "ais_bench"
    (package / "infer").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "infer" / "__init__.py").touch()
    (package / "__main__.py").write_text(_AIS_BENCH)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _export(place: Path, *, with_original: bool = False, **options: object) -> AscendReport:
    original, net = _pair()
    settings = {"soc_versions": _SOCS, "original": original if with_original else None, **options}
    return export_ascend(net, image(), place, **settings)  # type: ignore[arg-type]


def _shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)


def test_the_directory_holds_what_the_device_needs(tmp_path: Path) -> None:
    place = tmp_path / "new" / "deploy"
    original, net = _pair()
    check = snapshot(net.train())
    report = export_ascend(net, image(), place, soc_versions=_SOCS, original=original)
    check()
    assert report.ok
    assert sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()) == [
        "README.md",
        *(f"atc_{soc}.sh" for soc in _SOCS),
        "compare.py",
        "inputs/0_x.npy",
        "model.onnx",
        "original.onnx",
        "outputs/model/0_linear.npy",
        "outputs/original/0_linear.npy",
        "report.json",
        "run.sh",
    ]
    assert [path.name for path in place.parent.iterdir()] == ["deploy"]
    assert all(os.access(script, os.X_OK) for script in place.glob("*.sh"))
    assert np.array_equal(np.load(place / "inputs" / "0_x.npy"), image().numpy())
    for name, model in (("model", net.eval()), ("original", original)):
        with torch.no_grad():
            expected = model(image()).numpy()
        assert np.allclose(np.load(place / "outputs" / name / "0_linear.npy"), expected, atol=1e-6)
    saved = json.loads((place / "report.json").read_text())
    assert (saved["format"], saved["version"]) == ("amct_pytorch.ascend", 1)
    assert saved["model"]["path"] == str(place / "model.onnx")
    assert "atc is not on the PATH" in str(report)
    assert (report.conversions, report.timings) == ((), ())


@pytest.mark.parametrize("soc", _SOCS)
def test_the_script_for_atc_is_as_documented(soc: str, tmp_path: Path) -> None:
    options = {
        "Ascend910B3": {"with_original": True},
        "Ascend910_9391": {"precision": "origin", "dynamic_batch": [4, 1, 2]},
        "Ascend950PR_9599": {"precision": "mixed_bfloat16", "dynamic_image_size": [(16, 16), (32, 24)]},
    }[soc]
    _export(tmp_path / "deploy", soc_versions=[soc], **options)
    assert (tmp_path / "deploy" / f"atc_{soc}.sh").read_text() == (_GOLDEN / f"atc_{soc}.sh").read_text()


def test_atc_is_run_where_it_is_and_its_error_is_reported(
    tmp_path: Path, fake_atc: Callable[[], list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECISION", "origin")  # the user's own variable is for scripts started by hand
    report = _export(tmp_path / "deploy", with_original=True, dynamic_batch=[1, 2])
    first, failed, last = report.conversions
    assert (first.error, last.error) == ("", "")
    assert "E10001: Value [Ascend910_9391] for parameter [soc_version] is invalid." in failed.error
    assert not report.ok
    assert "atc for Ascend910_9391: failed:\nATC run failed" in str(report)
    # After a failure of the model the original is not timed.
    assert [call["soc_version"] for call in fake_atc()] == [_SOCS[0], _SOCS[0], _SOCS[1], _SOCS[2], _SOCS[2]]
    assert fake_atc()[0] == {
        "mode": "0",
        "framework": "5",
        "model": "model.onnx",
        "output": "model_Ascend910B3_fp16",
        "soc_version": "Ascend910B3",
        "input_format": "NCHW",
        "input_shape": "x:-1,3,16,16",
        "precision_mode_v2": "fp16",
        "dynamic_batch_size": "1,2",
        "enable_small_channel": "1",
    }
    assert (tmp_path / "deploy" / "original_Ascend950PR_9599_fp16.om").exists()


@pytest.mark.usefixtures("fake_ais_bench")
def test_what_was_compiled_is_timed_where_ais_bench_is(
    tmp_path: Path, fake_atc: Callable[[], list[dict[str, str]]]
) -> None:
    report = _export(tmp_path / "deploy", with_original=True)
    assert [timing.soc_version for timing in report.timings] == [_SOCS[0], _SOCS[2]]
    assert report.timings[0].model == (1.5, 1.5, 1.5)
    assert report.timings[0].original == (4.5, 4.5, 4.5)
    assert report.timings[0].speed_up == pytest.approx(3)
    assert "ais_bench for Ascend910B3: 1.5 ms, the original 4.5 ms: 3.00 times as fast" in str(report)
    alone = Timing("Ascend910B3", (1.6, 1.5, 1.4), (), "")
    assert alone.speed_up is None
    assert str(alone) == "ais_bench for Ascend910B3: 1.5 ms"


@pytest.mark.usefixtures("fake_atc", "fake_ais_bench")
@pytest.mark.parametrize(
    ("program", "error"), [("raise SystemExit('no device')", "no device"), ("print('hm')", "no NPU_compute_time:\nhm")]
)
def test_an_error_of_ais_bench_is_reported(program: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "site" / "ais_bench" / "__main__.py").write_text(program)
    report = _export(tmp_path / "deploy", soc_versions=_SOCS[:1])
    assert error in report.timings[0].error
    assert error in str(report)
    assert not report.ok


@pytest.mark.usefixtures("fake_atc")
def test_another_tool_of_the_same_name_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site" / "ais_bench").mkdir(parents=True)
    (tmp_path / "site" / "ais_bench" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert _export(tmp_path / "deploy", soc_versions=_SOCS[:1]).timings == ()


@pytest.mark.usefixtures("fake_ais_bench")
def test_the_commands_of_the_readme_run_and_the_comparison_judges(
    tmp_path: Path, fake_atc: Callable[[], list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "deploy"
    with monkeypatch.context() as without_tools:
        without_tools.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[2])
        _export(place, with_original=True, soc_versions=_SOCS[:1], dynamic_batch=[2, 4])
    readme = (place / "README.md").read_text()
    environment, compile_, run = readme.partition("```sh\n")[2].partition("\n```")[0].splitlines()
    assert environment == "source /usr/local/Ascend/ascend-toolkit/set_env.sh"
    assert _shell(f"{compile_} --log=error", tmp_path).returncode  # the directory has no such script
    assert not _shell(f"{compile_} --log=error", place).returncode
    assert [call["log"] for call in fake_atc()] == ["error", "error"]

    done = _shell(run, place)
    assert done.returncode == 0, done.stderr
    assert "0_linear: max" in done.stdout
    assert "top-1 agreement 100.00%: agrees" in done.stdout
    # The error of half precision is seen, and is wrong at a tolerance of zero.
    strict = _shell(f"{run} --tolerance 1e-7", place)
    assert strict.returncode == 1
    assert "DIFFERS, expected a relative error of 1e-07 at most" in strict.stdout
    assert not _shell(run.replace("model_", "original_"), place).returncode

    assert not _shell("PRECISION=origin bash atc_Ascend910B3.sh", place).returncode
    assert fake_atc()[-1]["precision_mode_v2"] == "origin"
    assert (place / "original_Ascend910B3_origin.om").exists()
    for command in readme.rpartition("```sh\n")[2].partition("\n```")[0].splitlines():
        assert "NPU_compute_time" in _shell(command, place).stdout


@pytest.mark.parametrize(
    ("write", "status", "verdict"),
    [
        (lambda folder, values: np.save(folder / "0_x_0.npy", values), 0, ": agrees"),
        (lambda folder, values: values.tofile(folder / "0_x_0.bin"), 0, ": agrees"),
        (lambda folder, values: values.astype(np.float16).tofile(folder / "0_x_0.bin"), 0, ": agrees"),
        (lambda folder, values: np.save(folder / "0_x_0.npy", -values), 1, "DIFFERS"),
        (lambda folder, values: np.save(folder / "0_x_0.npy", values * np.nan), 1, "DIFFERS"),
        (lambda folder, values: np.save(folder / "0_x_0.npy", values[:1]), 2, "expected (2, 10) values"),
        (lambda folder, values: None, 2, "expected one file *_0.npy or *_0.bin"),
    ],
)
def test_compare_knows_right_from_wrong(
    write: Callable[[Path, np.ndarray], object], status: int, verdict: str, tmp_path: Path
) -> None:
    values = image(2, 10).numpy()
    for folder in ("results", "reference"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "reference" / "0_linear.npy", values)
    write(tmp_path / "results", values)
    from amct_pytorch._deploy import ascend_compare

    # As a stand-alone file, without this package.
    command = [sys.executable, "-I", ascend_compare.__file__, str(tmp_path / "results"), str(tmp_path / "reference")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert verdict in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def _refuse(**options: object) -> Callable[[Path], object]:
    return lambda place: _export(place / "deploy", **{"soc_versions": ["Ascend910B3"], **options})


class _Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize("name", ["Ascend910B3", "910B3"])
def test_a_chip_is_known_by_its_name_with_and_without_the_makers(name: str) -> None:
    assert target_of(name) == Target("Ascend910B3", "Atlas A2")


_EXAMPLES = r"Ascend910B3 \(Atlas A2\), Ascend910_9391 \(Atlas A3\) or Ascend950PR_9599 \(Ascend 950\)"
_REFUSALS: dict[str, tuple[type[AmctError], str, Callable[[Path], object]]] = {
    **{
        f"chip {name}": (ConfigError, f"{_EXAMPLES}, found {name!r}", _refuse(soc_versions=[name]))
        for name in ("910b3", "ascend910b3", "Ascend910B", "Ascend910", "Ascend910B3; rm -rf /", "Ascend910_93", "")
    },
    "chip 3": (ConfigTypeError, r"a list of names such as .*, found \[3\]", _refuse(soc_versions=[3])),
    "one string": (ConfigError, r"a list of names such as \['Ascend910B3'\]", _refuse(soc_versions="Ascend910B3")),
    "no chip": (ConfigError, "soc_versions must be a list", _refuse(soc_versions=[])),
    "precision": (
        ConfigError,
        "must be one of fp16, origin, .* older --precision_mode",
        _refuse(precision="force_fp32"),
    ),
    "both dynamic": (
        ConfigError,
        "not both",
        _refuse(dynamic_batch=[1, 2], dynamic_image_size=[(16, 16), (32, 32)]),
    ),
    "dynamic True": (ConfigError, "give them as a list", _refuse(dynamic_batch=True)),
    "one size": (ConfigError, "dynamic_batch needs 2 to 100", _refuse(dynamic_batch=[2])),
    "not the inputs' batch": (ConfigError, "expected 2, found 1, 4", _refuse(dynamic_batch=[1, 4])),
    "not the inputs' size": (
        ConfigError,
        r"expected \(16, 16\), found \(32, 32\), \(64, 64\)",
        _refuse(dynamic_image_size=[(32, 32), (64, 64)]),
    ),
    "inputs that do not fit": (
        InputsError,
        r"\(2, 4, 16, 16\)",
        lambda place: export_ascend(_pair()[1], image(2, 4, 16, 16), place / "deploy", soc_versions=["Ascend910B3"]),
    ),
    "unsupported operator": (
        ExportError,
        "in layer '1': No ONNX function found",
        lambda place: export_ascend(
            nn.Sequential(TwoConvs(), _Bessel()), image(), place / "deploy", soc_versions=["Ascend910B3"]
        ),
    ),
    "not empty": (ExportAccessError, "found a directory with files in it", lambda place: _export(place)),
    "a file": (ExportAccessError, "found a file", lambda place: _export(place / "file")),
    "below a file": (
        ExportAccessError,
        "file is not a writable folder",
        lambda place: _export(place / "file" / "deploy"),
    ),
}


@pytest.mark.parametrize("case", list(_REFUSALS))
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    error, message, export = _REFUSALS[case]
    (tmp_path / "file").touch()
    with pytest.raises(error, match=message):
        export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match="pip install onnx"):
        _export(tmp_path / "deploy")


@pytest.mark.usefixtures("fake_atc")
def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _export(tmp_path / "new" / "deploy")
    assert {path.name for path in tmp_path.iterdir()} == before
