"""The NPU's backend on the real torch_npu: over a stand-in for CANN, and where it cannot be imported.

Each check runs in a separate process, with torch_npu in a folder that its wheel is unpacked to. The process ends by
os._exit, as torch_npu waits for a device when Python shuts down.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from .fake_cuda import libraries_for

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).resolve().parent.parent
_STUB = _ROOT / "tests" / "fake_cann" / "libascendcl.c"
_RELEASE = torch.__version__.partition("+")[0]
_RECOMMENDED = "2.12.0"
_SET_ENV = "source /usr/local/Ascend/ascend-toolkit/set_env.sh"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that torch_npu's wheel is unpacked to."""
    return _unpacked(f"torch-npu=={_RELEASE}", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def recommended(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """The pair of torch and torch_npu that the documents recommend: folders of packages, and of libraries."""
    if not all(map(shutil.which, ("cc", "nm", "readelf"))):
        pytest.skip("torch's CUDA build needs stand-ins for CUDA, which need cc, nm and readelf")
    names = (f"torch=={_RECOMMENDED}", f"torch-npu=={_RECOMMENDED}")
    packages = [_unpacked(name, tmp_path_factory.mktemp("package")) for name in names]
    return packages, [libraries_for(packages[0] / "torch", tmp_path_factory.mktemp("cuda"))]


def _unpacked(requirement: str, folder: Path) -> Path:
    """The folder with a wheel's packages, without those that it asks for."""
    download = [sys.executable, "-m", "pip", "download", requirement, "--no-deps", "--only-binary=:all:"]
    patience = ["--retries", "1", "--timeout", "20", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*download, *patience, "--dest", str(folder)],
        env={**os.environ, "PIP_CONSTRAINT": ""}, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip says nothing"]
        pytest.skip(f"{requirement} cannot be had: {lines[-1]}")
    [found] = folder.glob("*.whl")
    with zipfile.ZipFile(found) as archive:
        archive.extractall(folder)
    found.unlink()
    return folder


def _cc(*arguments: str | Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler: cc is not found")
    done = subprocess.run([compiler, "-shared", "-fPIC", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def cann(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stand-ins for CANN's libraries."""
    folder = tmp_path_factory.mktemp("cann")
    _cc("-o", folder / "libascendcl.so", _STUB)
    for name in ("libacl_op_compiler.so", "libge_runner.so", "libgraph.so"):
        shutil.copy(folder / "libascendcl.so", folder / name)
    empty = folder / "empty.c"
    empty.touch()
    for name in ("libhccl.so", "libacl_tdt_channel.so"):
        _cc("-o", folder / name, empty)
    return folder


@dataclass
class _Ended:
    """Output and exit status of a process."""

    status: int
    output: str
    errors: str


def _run(
    program: str,
    packages: Path | Sequence[Path],
    libraries: Path | Sequence[Path] = (),
    autoload: bool = False,
    **variables: str,
) -> _Ended:
    """Run Python code with these packages and libraries."""
    packages, libraries = ([each] if isinstance(each, Path) else each for each in (packages, libraries))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ASCEND", "TORCH_NPU"))}
    environment |= {
        "PYTHONPATH": os.pathsep.join(map(str, [*packages, _ROOT])),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": str(int(autoload)),
        "CUDA_VISIBLE_DEVICES": "",  # torch_npu shares a process with no GPU
    } | variables
    ending = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"
    done = subprocess.run(
        [sys.executable, "-c", program + ending],
        env=environment, cwd=packages[0], capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    return _Ended(done.returncode, done.stdout, done.stderr)


def _printed(ended: _Ended) -> dict[str, object]:
    """The JSON in the last line of what a process printed."""
    assert ended.status == 0, ended.output + ended.errors
    return json.loads(ended.output.splitlines()[-1])


# Over the stand-in


def _check_the_backend_works(packages: Path | Sequence[Path], libraries: Sequence[Path]) -> str:
    """Run the tests in tests/fake_cann, and return their output."""
    program = (
        "import os, pytest, sys, torch, torch_npu\n"
        "print('on torch', torch.__version__, 'and torch_npu', torch_npu.__version__)\n"
        f"status = pytest.main(['-q', '-p', 'no:cacheprovider', '-W', 'ignore', {str(_STUB.parent)!r}])\n"
        "sys.stdout.flush()\n"
        "os._exit(status)"
    )
    done = _run(program, packages, libraries, FAKE_CANN_SOC="Ascend910B3", FAKE_CANN_MEMORY="2048")
    assert done.status == 0, done.output + done.errors
    [passed] = re.findall(r"(\d+) passed", done.output)
    assert int(passed) >= 10
    assert "skipped" not in done.output
    return done.output


def test_the_backend_works_on_the_real_torch_npu(wheel: Path, cann: Path) -> None:
    assert f"torch_npu {_RELEASE}" in _check_the_backend_works(wheel, [cann])


def test_the_backend_works_on_the_pair_that_the_documents_recommend(
    recommended: tuple[list[Path], list[Path]], cann: Path
) -> None:
    packages, libraries = recommended
    output = _check_the_backend_works(packages, [cann, *libraries])
    assert re.search(rf"on torch {_RECOMMENDED}\S* and torch_npu {_RECOMMENDED}\n", output)
    for page in ("ascend.md", "ascend.zh.md"):
        text = (_ROOT / "docs" / page).read_text(encoding="utf-8")
        assert f"torch=={_RECOMMENDED} torch-npu=={_RECOMMENDED}" in text, page


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Ascend910B2C", "Atlas A2"),
        ("Ascend910B4-1", "Atlas A2"),
        ("Ascend910_9391", "Atlas A3"),
        ("Ascend910_9362", "Atlas A3"),
        ("Ascend950PR_9599", "Ascend 950"),
        ("Ascend950DT_9582", "Ascend 950"),
    ],
)
def test_the_chip_is_known_by_its_name(wheel: Path, cann: Path, name: str, family: str) -> None:
    program = """
import dataclasses, json, torch
from amct_pytorch.backend import get_backend
npu = get_backend("npu")
with npu.prepared(npu.device()):
    settings = npu.settings(npu.device())
[info] = npu.devices()
print(json.dumps(dataclasses.asdict(info) | {"settings": settings}, default=str))
"""
    printed = _printed(_run(program, wheel, cann, FAKE_CANN_SOC=name))
    assert (printed["name"], printed["family"]) == (name, family)
    assert printed["total_memory"] == 64 * 2**30
    assert printed["dtypes"] == ["torch.float32", "torch.float16", "torch.bfloat16"]
    assert printed["settings"]["jit_compile"] == printed["settings"]["allow_internal_format"] == "False"


def test_torch_loads_torch_npu_itself_where_it_may(wheel: Path, cann: Path) -> None:
    program = """
import json, os, torch
from amct_pytorch.backend import available_backends
print(json.dumps({"available": available_backends(), "autoload": os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"]}))
"""
    done = _run(program, wheel, cann, autoload=True, FAKE_CANN_SOC="Ascend910B3")
    assert _printed(done) == {"available": ["cpu", "npu"], "autoload": "1"}


# Where it cannot be used

_REASON = """
import json, os, sys
import torch
before = dict(os.environ)
from amct_pytorch.backend import get_backend, list_backends
from amct_pytorch.errors import BackendUnavailable
from amct_pytorch.tensor_decompose import auto_decomposition
[status] = [status for status in list_backends() if status.name == "npu"]
try:
    get_backend("npu")
    message = None
except BackendUnavailable as error:
    message = str(error)
chain, _ = auto_decomposition(torch.nn.Conv2d(64, 64, 3))
response = chain(torch.ones(1, 64, 8, 8))
print(json.dumps({
    "reason": status.reason,
    "message": message,
    "environment": dict(os.environ) == before,
    "left": [name for name in sys.modules if name.partition(".")[0] == "torch_npu"],
    "cpu": get_backend("cpu").is_available() and bool(response.isfinite().all()),
}))
"""


def _reason(ended: _Ended, left: bool = False) -> str:
    """Why the NPU's backend is unavailable; checks that the failed import had no other effect."""
    printed = _printed(ended)
    reason = printed["reason"]
    assert isinstance(reason, str)
    assert printed["message"] == (f"backend 'npu' is not available: {reason}. Installed backends: cpu, cuda, npu")
    assert printed["environment"] is True
    assert bool(printed["left"]) == left
    assert printed["cpu"] is True
    return reason


@pytest.mark.parametrize("present", [[], ["libhccl.so"]], ids=["nothing", "a part of it"])
def test_without_cann_the_reason_names_the_library_and_the_remedy(
    wheel: Path, cann: Path, present: list[str], tmp_path: Path
) -> None:
    for name in present:
        shutil.copy(cann / name, tmp_path)
    missing = "libascendcl.so" if present else "libhccl.so"
    reason = _reason(_run(_REASON, wheel, tmp_path))
    assert f"ImportError: {missing}: cannot open shared object file" in reason
    assert _SET_ENV in reason
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in reason


def test_without_the_driver_the_reason_says_so(wheel: Path, cann: Path, tmp_path: Path) -> None:
    for library in cann.glob("*.so"):
        shutil.copy(library, tmp_path)
    driver = tmp_path / "libascend_hal.so"
    _cc("-o", driver, cann / "empty.c")
    _cc("-o", tmp_path / "libascendcl.so", _STUB, "-Wl,--no-as-needed", driver, "-Wl,-soname,libascendcl.so")
    driver.unlink()
    reason = _reason(_run(_REASON, wheel, tmp_path))
    assert "libascend_hal.so" in reason
    assert "driver" in reason
    assert _SET_ENV not in reason


def test_where_torch_may_load_it_torch_itself_fails_as_the_reason_warns(wheel: Path) -> None:
    done = _run("import torch", wheel, autoload=True)
    assert done.status != 0
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in done.errors


def test_without_a_device_the_reason_says_where_to_look(wheel: Path, cann: Path) -> None:
    done = _run(_REASON, wheel, cann, FAKE_CANN_SOC="Ascend910B3", FAKE_CANN_DEVICES="0")
    reason = _reason(done, left=True)
    assert reason.startswith("torch_npu sees no NPU")
    assert "npu-smi info" in reason
    assert "ASCEND_RT_VISIBLE_DEVICES" in reason


# With other versions of torch_npu than the wheel's: these tests need no wheel


def _install(folder: Path, version: str, code: str) -> Path:
    """A package that calls itself torch_npu."""
    (folder / "torch_npu.py").write_text(code, encoding="utf-8")
    metadata = folder / f"torch_npu-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: torch-npu\nVersion: {version}\n", encoding="utf-8")
    return folder


def test_a_torch_npu_of_another_version_is_not_imported(tmp_path: Path) -> None:
    packages = _install(tmp_path, "2.1.0.post8", "raise SystemExit('imported')")
    reason = _reason(_run(_REASON, packages))
    assert reason.startswith(f"torch_npu 2.1.0.post8 needs torch 2.1.0, found torch {torch.__version__}")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            "RuntimeError('Two accelerators cannot be used at the same time in PyTorch: npu and cuda.')",
            "install a CPU build of torch, or hide the other one (CUDA_VISIBLE_DEVICES= for GPUs)",
        ),
        ("ImportError('libtorch_npu.so: undefined symbol: _ZN3c10')", "do not fit each other"),
        ("Exception('ASCEND_OPP_PATH is not set')", "torch_npu cannot be imported"),
    ],
    ids=["two accelerators", "wrong versions", "anything else"],
)
def test_an_import_that_fails_says_what_to_do(tmp_path: Path, error: str, remedy: str) -> None:
    code = f"import os\nos.environ['TORCH_DEVICE_BACKEND_AUTOLOAD'] = '0'\nos.environ['LEFT'] = '1'\nraise {error}"
    reason = _reason(_run(_REASON, _install(tmp_path, f"{_RELEASE}.post1", code)))
    assert remedy in reason
    kind, _, message = error.partition("('")
    assert f"{kind}: {message.removesuffix(chr(39) + ')')}" in reason
