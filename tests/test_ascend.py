"""export_ascend writes a directory that is ready for the device; Ascend's tools are replaced by stand-ins."""

from __future__ import annotations

import copy
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amct_pytorch._deploy import ascend_python
from amct_pytorch._deploy.ascend_chips import Target, target_of
from amct_pytorch._deploy.ascend_tools import Timing, time_compiled
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

# Accepts the documented options, creates the requested output file, and records its arguments and environment.
_ATC = """#!{python}
import json, os, pathlib, sys
known = {{"mode", "framework", "model", "output", "soc_version", "input_format", "input_shape", "precision_mode_v2",
         "dynamic_batch_size", "dynamic_image_size", "enable_small_channel", "op_precision_mode", "check_report",
         "log"}}
options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
assert options.keys() <= known, options
environment = {{key: os.environ.get(key, "") for key in ("LD_LIBRARY_PATH", "CANN")}}
with open({calls!r}, "a") as calls:
    calls.write(json.dumps({{**options, **environment}}) + "\\n")
assert pathlib.Path(options["model"]).is_file()
assert pathlib.Path(options.get("op_precision_mode", ".")).exists()
if options["mode"] == "3":
    pathlib.Path(options["check_report"]).write_text("[]")
    sys.exit("E10001")
if options["soc_version"] == "Ascend910_9391":
    print("ATC run failed, Please check the detail log")
    sys.exit("E10001: Value [Ascend910_9391] for parameter [soc_version] is invalid.")
pathlib.Path(options["output"] + os.environ.get("FAKE_HOST", "") + ".om").write_text(options["model"])
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


class _Exported(NamedTuple):
    """An export with its original, made where none of Ascend's tools are."""

    place: Path
    report: AscendReport
    models: dict[str, nn.Module]
    check_unchanged: Callable[[], None]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> _Exported:
    place = tmp_path_factory.mktemp("exported") / "new" / "deploy"
    original, net = _pair()
    check = snapshot(net.train())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.defpath)
        report = export_ascend(net, image(), place, soc_versions=_SOCS, original=original)
    return _Exported(place, report, {"model": net, "original": original}, check)


@pytest.fixture
def deploy(exported: _Exported, tmp_path: Path) -> Path:
    """A copy of its directory."""
    return shutil.copytree(exported.place, tmp_path / "deploy")


@pytest.fixture
def fake_atc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, str]]]:
    """Put ``atc`` on the PATH, and return the options of every call."""
    calls = _fake_tools(tmp_path / "tools")
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    return calls


def _fake_tools(folder: Path) -> Callable[[], list[dict[str, str]]]:
    """Make a folder with ``atc`` and ``python3``, and return what gives the options of every call of atc."""
    folder.mkdir(parents=True)
    calls = folder / "calls"
    calls.touch()
    _program(folder / "atc", _ATC.format(python=sys.executable, calls=str(calls)))
    _program(folder / "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
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


def test_the_directory_holds_what_the_device_needs(exported: _Exported) -> None:
    place, report, models, check_unchanged = exported
    check_unchanged()
    assert report.ok
    assert sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()) == [
        "README.md",
        *(f"atc_{soc}.sh" for soc in _SOCS),
        "check_python.py",
        "common.sh",
        "compare.py",
        "float32.ini",
        "inputs/0_x.npy",
        "model.onnx",
        "original.onnx",
        "outputs/model/0_linear.npy",
        "outputs/original/0_linear.npy",
        "report.json",
        "run.sh",
    ]
    assert [path.name for path in place.parent.iterdir()] == ["deploy"]
    assert all(os.access(place / script, os.X_OK) for script in ("run.sh", "atc_Ascend910B3.sh"))
    assert np.array_equal(np.load(place / "inputs" / "0_x.npy"), image().numpy())
    for name, model in models.items():
        with torch.no_grad():
            expected = copy.deepcopy(model).eval()(image()).numpy()
        assert np.allclose(np.load(place / "outputs" / name / "0_linear.npy"), expected, atol=1e-6)
    saved = json.loads((place / "report.json").read_text())
    assert (saved["format"], saved["version"]) == ("amct_pytorch.ascend", 1)
    assert saved["model"]["path"] == str(place / "model.onnx")
    assert "atc is not on the PATH" in str(report)
    assert (report.conversions, report.timings) == ((), ())


@pytest.mark.parametrize(
    ("soc", "options"),
    [
        pytest.param("Ascend910_9391", {"precision": "origin", "dynamic_batch": [4, 1, 2]}, marks=pytest.mark.slow),
        pytest.param(
            "Ascend950PR_9599",
            {"precision": "mixed_hif8", "dynamic_image_size": [(16, 16), (32, 24)]},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_script_for_atc_is_as_documented(soc: str, options: dict[str, object], tmp_path: Path) -> None:
    _export(tmp_path / "deploy", soc_versions=[soc], **options)
    assert (tmp_path / "deploy" / f"atc_{soc}.sh").read_text() == (_GOLDEN / f"atc_{soc}.sh").read_text()


def test_the_script_compiles_both_networks(exported: _Exported) -> None:
    script = "atc_Ascend910B3.sh"
    assert (exported.place / script).read_text() == (_GOLDEN / script).read_text()


@pytest.mark.usefixtures("fake_ais_bench")
def test_tools_are_run_where_they_are_and_their_errors_reported(
    tmp_path: Path, fake_atc: Callable[[], list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECISION", "origin")  # the user's own variable is for scripts started by hand
    report = _export(tmp_path / "deploy", with_original=True, dynamic_batch=[1, 2])
    first, failed, last = report.conversions
    assert (first.error, last.error) == ("", "")
    assert "E10001: Value [Ascend910_9391] for parameter [soc_version] is invalid." in failed.error
    assert "atc failed on model.onnx. What to look at:\n- check_model.json" in failed.error
    assert "atc for Ascend910_9391: failed:\natc runs " in str(report)
    assert not report.ok
    # After a failure of the model the original is not compiled, but what the parser finds is asked for.
    assert [(call["soc_version"], call["mode"]) for call in fake_atc()] == [
        *[(_SOCS[0], "0")] * 2,
        (_SOCS[1], "0"),
        (_SOCS[1], "3"),
        *[(_SOCS[2], "0")] * 2,
    ]
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
        "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
        "CANN": "",
    }
    assert (tmp_path / "deploy" / "original_Ascend950PR_9599_fp16.om").exists()
    # What was compiled is timed.
    assert [timing.soc_version for timing in report.timings] == [_SOCS[0], _SOCS[2]]
    assert report.timings[0].model == (1.5, 1.5, 1.5)
    assert report.timings[0].original == (4.5, 4.5, 4.5)
    assert report.timings[0].speed_up == pytest.approx(3)
    assert "ais_bench for Ascend910B3: 1.5 ms, the original 4.5 ms: 3.00 times as fast" in str(report)
    alone = Timing("Ascend910B3", (1.6, 1.5, 1.4), (), "")
    assert alone.speed_up is None
    assert str(alone) == "ais_bench for Ascend910B3: 1.5 ms"


@pytest.mark.usefixtures("fake_ais_bench")
@pytest.mark.parametrize(
    ("program", "error"), [("raise SystemExit('no device')", "no device"), ("print('hm')", "no NPU_compute_time:\nhm")]
)
def test_an_error_of_ais_bench_is_reported(program: str, error: str, deploy: Path, tmp_path: Path) -> None:
    (tmp_path / "site" / "ais_bench" / "__main__.py").write_text(program)
    (timing,) = time_compiled(deploy, _SOCS[:1], ["model"], "fp16", [])
    assert error in timing.error
    assert error in str(timing)
    assert timing.speed_up is None


def test_another_tool_of_the_same_name_is_not_run(
    deploy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site" / "ais_bench").mkdir(parents=True)
    (tmp_path / "site" / "ais_bench" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert time_compiled(deploy, _SOCS[:1], ["model"], "fp16", []) == []


@pytest.mark.usefixtures("fake_ais_bench")
def test_the_commands_of_the_readme_run_and_the_comparison_judges(
    deploy: Path, fake_atc: Callable[[], list[dict[str, str]]], tmp_path: Path
) -> None:
    readme = (deploy / "README.md").read_text()
    compile_, run = readme.partition("```sh\n")[2].partition("\n```")[0].splitlines()
    assert _shell(f"{compile_} --log=error", tmp_path).returncode  # the directory has no such script
    done = _shell(f"{compile_} --log=error", deploy)
    assert done.returncode == 0, done.stderr
    assert f"atc runs {sys.executable}, Python 3." in done.stderr
    assert [call["log"] for call in fake_atc()] == ["error", "error"]
    assert not any("op_precision_mode" in call for call in fake_atc())

    done = _shell(run, deploy)
    assert done.returncode == 0, done.stderr
    assert "0_linear: max" in done.stdout
    assert "top-1 agreement 100.00%: agrees" in done.stdout
    # The error of half precision is seen, and is wrong at a tolerance of zero.
    strict = _shell(f"{run} --tolerance 1e-7", deploy)
    assert strict.returncode == 1
    assert "DIFFERS, expected a relative error of 1e-07 at most" in strict.stdout
    assert not _shell(run.replace("model_", "original_"), deploy).returncode

    parity, run = readme.split("```sh\n")[2].partition("\n```")[0].splitlines()
    assert not _shell(parity, deploy).returncode
    assert fake_atc()[-1]["precision_mode_v2"] == "origin"
    assert fake_atc()[-1]["op_precision_mode"] == "float32.ini"
    assert (deploy / "float32.ini").read_text() == "[ByOpType]\nConv2D=enable_float_32_execution\n"
    assert (deploy / "original_Ascend910B3_origin.om").exists()
    assert not _shell(run, deploy).returncode
    # Only Atlas A2 and A3 have that setting.
    assert not _shell(parity.replace("910B3", "950PR_9599"), deploy).returncode
    assert fake_atc()[-1]["precision_mode_v2"] == "origin"
    assert "op_precision_mode" not in fake_atc()[-1]
    for command in readme.rpartition("```sh\n")[2].partition("\n```")[0].splitlines():
        assert "NPU_compute_time" in _shell(command, deploy).stdout


@pytest.mark.parametrize("place", ["Ascend/cann", "Ascend/ascend-toolkit"])
def test_the_scripts_find_cann_where_it_lies_and_its_stand_ins_of_a_driver(
    place: str, deploy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cann = tmp_path / "home" / place
    calls = _fake_tools(cann / "bin")
    stand_ins = cann / f"{platform.machine()}-linux" / "devlib"
    stand_ins.mkdir(parents=True)
    (cann / "set_env.sh").write_text(f'false\nexport CANN={place} PATH="{cann}/bin:$PATH" OTHER="$NOT_SET"\n')
    for name in ("ASCEND_HOME_PATH", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    done = _shell("bash atc_Ascend910B3.sh", deploy)
    assert done.returncode == 0, done.stderr
    assert {call["CANN"] for call in calls()} == {place}
    assert {call["LD_LIBRARY_PATH"] for call in calls()} == {str(stand_ins)}


def test_without_cann_the_script_says_what_to_install(
    deploy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = _shell("bash atc_Ascend910B3.sh", deploy)
    assert done.returncode == 127
    assert "install CANN's toolkit and the ops package of the chip, then source the set_env.sh" in done.stderr


def test_an_output_named_after_its_host_is_found(
    deploy: Path, fake_atc: Callable[[], list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_HOST", "_linux_aarch64")
    (deploy / "model_Ascend910B3_fp16_linux_x86_64.om").write_text("of an earlier run, elsewhere")
    assert not _shell("bash atc_Ascend910B3.sh", deploy).returncode
    assert (deploy / "model_Ascend910B3_fp16.om").read_text() == "model.onnx"
    assert len(list(deploy.glob("*.om"))) == len(fake_atc())


def test_where_ais_bench_is_missing_the_script_says_what_to_do(deploy: Path) -> None:
    done = _shell(f"PYTHON={sys.executable} bash run.sh model_Ascend910B3_fp16.om", deploy)
    assert done.returncode == 2
    assert f"Python {platform.python_version()} ({sys.executable}) has no ais_bench." in done.stderr
    assert "not built for Python 3.12 and later [3rd]: there, install them in an environment" in done.stderr


@pytest.mark.usefixtures("fake_ais_bench")
def test_names_with_spaces_quotes_and_commands_stay_plain_text(
    tmp_path: Path, fake_atc: Callable[[], list[dict[str, str]]]
) -> None:
    class Sum(nn.Module):
        def forward(self, given: dict[str, Tensor]) -> Tensor:
            return sum(given.values(), torch.zeros(2, 3))

    names = ["a b", "$(touch made)", "`touch made`", "it's", 'the "x"', "back\\slash", "$HOME", "*", "a,b", "&|<>"]
    place = tmp_path / "a $(touch made) 'folder' of \"x\""
    inputs = ({name: torch.rand(2, 3) for name in names},)
    report = export_ascend(Sum(), inputs, place, soc_versions=["910B3"])
    assert report.ok
    assert report.timings[0].model
    (call,) = fake_atc()
    assert call["input_shape"] == ";".join(f"given_{name}:2,3" for name in names)
    done = _shell(f"bash {shlex.quote(str(place / 'run.sh'))} model_Ascend910B3_fp16.om", tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("made"))


@pytest.mark.parametrize(
    ("python", "changes", "lines"),
    [
        ((3, 11), {}, []),
        ((3, 11), {"protobuf": "5.29.1"}, ["CANN 8.5 and 9.0 want protobuf 3.20, found 5.29.1; CANN 9.1 takes others"]),
        ((3, 11), {"numpy": "2.1.0"}, ["CANN 8.5 wants NumPy below 2 under Python 3.11, found 2.1.0"]),
        ((3, 13), {"numpy": "2.1.0"}, []),
        ((3, 11), {"sympy": None, "absl-py": None}, ["missing: python3 -m pip install sympy absl-py"]),
    ],
)
def test_the_python_of_atc_is_checked(python: tuple[int, int], changes: dict[str, str], lines: list[str]) -> None:
    right = {**dict.fromkeys(ascend_python.PACKAGES, "1.0"), "protobuf": "3.20.3", "numpy": "1.26.4"}
    assert ascend_python.shortcomings(python, {**right, **changes}) == lines


def test_an_earlier_directory_is_replaced_on_request_only(deploy: Path, tmp_path: Path) -> None:
    (deploy / "model_Ascend910B3_fp16.om").touch()
    with pytest.raises(ExportAccessError, match="found a directory of an earlier export: replace=True writes a new"):
        _export(deploy)
    assert (deploy / "model_Ascend910B3_fp16.om").exists()
    _export(deploy, soc_versions=_SOCS[:1], replace=True)
    names = {path.name for path in deploy.iterdir()}
    assert "model.onnx" in names
    assert names.isdisjoint({"model_Ascend910B3_fp16.om", "original.onnx", "atc_Ascend910_9391.sh"})
    assert [path.name for path in tmp_path.iterdir()] == ["deploy"]


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


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *((name, "Atlas A2") for name in ("910B1", "910B2", "910B2C", "910B3", "910B4", "910B4-1")),
        *((name, "Atlas A3") for name in ("910_9391", "910_9362")),
        *((name, "Ascend 950") for name in ("950PR_9599", "950DT_9582")),
    ],
)
def test_a_chip_is_known_by_its_name_with_and_without_the_makers(name: str, family: str) -> None:
    assert target_of(name) == target_of(f"Ascend{name}") == Target(f"Ascend{name}", family)


@pytest.mark.parametrize("name", ["Ascend310P3", "310P3", "Ascend310", "Ascend310B4", "Ascend910", "Ascend910B"])
def test_a_chip_that_is_not_supported_is_said_to_be_so(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"found '{name}', a chip that is not supported. The name of a card is: Atlas A2"
    ):
        target_of(name)


def test_the_error_says_how_the_name_of_a_chip_is_found() -> None:
    with pytest.raises(ConfigError) as caught:
        target_of("910b3")
    assert "not supported" not in str(caught.value)
    for way in ('"Ascend" and the Name that `npu-smi info` prints', "`npu-smi info -t board -i ID -c CHIP`"):
        assert way in str(caught.value)


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
    "precision of another chip": (
        ConfigError,
        "cube_fp16in_fp32out, which ATC knows",
        _refuse(soc_versions=["950PR_9599", "910B3"], precision="mixed_hif8"),
    ),
    "too many sizes": (ConfigError, "dynamic_batch needs 2 to 100 .*, found 101", _refuse(dynamic_batch=range(1, 102))),
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
    "not empty": (ExportAccessError, "found a directory with other files in it", lambda place: _export(place)),
    "not ours": (ExportAccessError, "found a directory with other files", lambda place: _export(place, replace=True)),
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


@pytest.mark.parametrize("content", ["", "[]", '{"format": "amct_pytorch.benchmark"}'])
def test_a_report_of_another_kind_does_not_make_a_directory_ours(content: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ExportAccessError, match="found a directory with other files in it"):
        _export(tmp_path, replace=True)
    assert (tmp_path / "report.json").read_text() == content


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
