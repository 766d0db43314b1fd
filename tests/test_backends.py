"""The registry of backends, the conformance kit, and that the kit finds faulty backends."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

from amct_pytorch.backend import (
    GROUP,
    Backend,
    Registry,
    Tolerance,
    available_backends,
    get_backend,
    list_backends,
    refresh_backends,
)
from amct_pytorch.backend_testing import BackendConformance
from amct_pytorch.errors import AmctWarning, BackendUnavailable, ConfigError
from amct_pytorch.tensor_decompose import auto_decomposition
from amct_pytorch.validate import validate

from .models import conv

CpuBackend = type(get_backend("cpu"))
OURS = list(entry_points(group=GROUP))


def test_our_three_backends_are_installed() -> None:
    statuses = {status.name: status for status in list_backends()}
    assert list(statuses) == ["cpu", "cuda", "npu"]
    assert statuses["cpu"].available
    assert str(statuses["cpu"]) == "cpu: available (amct_backends.cpu:CpuBackend)"
    assert available_backends() == [name for name, status in statuses.items() if status.available]


@pytest.mark.parametrize(("name", "built"), [("cuda", "cuda"), ("npu", "privateuseone")])
def test_an_absent_device_is_listed_with_the_reason(name: str, built: str) -> None:
    status = next(status for status in list_backends() if status.name == name)
    if status.available:
        pytest.skip(f"there is such a device here: {name}")
    assert status.reason
    assert str(status).startswith(f"{name}: unavailable: ")
    with pytest.raises(BackendUnavailable, match="is not available: ") as caught:
        get_backend(name)
    assert status.reason in str(caught.value)
    assert "Installed backends: cpu, cuda, npu" in str(caught.value)
    assert isinstance(caught.value, RuntimeError)


def test_cuda_says_what_is_missing_of_it() -> None:
    if torch.backends.cuda.is_built():
        pytest.skip("this torch is built with CUDA")
    with pytest.raises(BackendUnavailable, match="built without CUDA: install a CUDA build"):
        get_backend("cuda")


def test_an_unknown_name_is_told_what_is_installed() -> None:
    with pytest.raises(BackendUnavailable, match="there is no backend 'tpu'. Installed backends: cpu, cuda, npu"):
        get_backend("tpu")


def test_backends_are_kept_until_refreshed() -> None:
    first = get_backend("cpu")
    assert get_backend("cpu") is first
    refresh_backends()
    assert get_backend("cpu") is not first


def _point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module:Backend", "ModuleNotFoundError"),
        ("math:NoSuchClass", "AttributeError"),
        ("math:pi", "expected a subclass of amct_pytorch.backend.Backend, found 3.14"),
        ("amct_backends.cpu:CpuBackend", "called 'broken', but the class calls itself 'cpu'"),
        ("amct_pytorch.backend:Backend", "abstract"),
    ],
)
def test_a_broken_plugin_is_named_in_a_warning_and_listed(value: str, why: str) -> None:
    registry = Registry([*OURS, _point("broken", value)])
    with pytest.warns(AmctWarning, match="backend 'broken' is broken: .*Installed backends: broken, cpu, cuda, npu"):
        statuses = {status.name: status for status in registry.statuses()}
    assert why in str(statuses["broken"].reason)
    assert statuses["cpu"].available
    with pytest.raises(BackendUnavailable, match="'broken' is not available"):
        registry.get("broken")


def test_a_broken_plugin_does_not_matter_until_it_is_asked_for() -> None:
    registry = Registry([*OURS, _point("broken", "no_such_module:Backend")])
    assert registry.get("cpu").name == "cpu"  # no warning, which would be an error here


def test_a_plugin_that_fails_when_asked_is_unavailable() -> None:
    registry = Registry([_point("faulty", f"{__name__}:FaultyBackend")])
    (status,) = registry.statuses()
    assert "asked whether it is available, it fails with OSError: no bus" in str(status.reason)
    assert str(status).endswith(f"OSError: no bus ({__name__}:FaultyBackend)")


def test_of_two_backends_of_one_name_the_first_is_used_and_a_warning_names_both() -> None:
    with pytest.warns(AmctWarning, match="'cpu' is installed 2 times: 'amct_backends.*is used, 'a:B' is not"):
        registry = Registry([*OURS, _point("cpu", "a:B")])
    assert isinstance(registry.get("cpu"), CpuBackend)


def test_one_backend_found_twice_is_one() -> None:
    assert [status.name for status in Registry([*OURS, *OURS]).statuses()] == ["cpu", "cuda", "npu"]


@pytest.mark.parametrize("index", [-1, 1, True, "0", 0.0])
def test_an_index_out_of_range_is_refused(index: object) -> None:
    with pytest.raises(ConfigError, match="backend 'cpu' has 1 devices, numbered from 0: found index"):
        get_backend("cpu").device(index)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["amct_pytorch.backend", "amct_pytorch.validate", "amct_pytorch.benchmark"])
def test_importing_loads_no_backend_and_no_device_library(module: str) -> None:
    code = f"import sys, {module}; print(*(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch_npu", "amct_backends", "matplotlib"} & set(done.stdout.split()) == set()


def test_the_flags_of_tf32_are_switched_and_given_back_without_a_gpu() -> None:
    point = next(point for point in OURS if point.name == "cuda")
    backend, device = point.load()(), torch.device("cuda", 0)
    before = backend.settings(device)
    with backend.exact_numerics(device):
        inside = backend.settings(device)
    assert backend.settings(device) == before
    assert inside["fp32 conv"] == inside["fp32 matmul"] == "ieee"
    assert inside["fp16 sums in fp16"] == "False"
    with backend.prepared(device):
        assert backend.settings(device)["cudnn.benchmark"] == "True"
    assert backend.settings(device) == before


TOY = """
    from amct_backends.cpu import CpuBackend

    class ToyBackend(CpuBackend):
        name = "toy"
"""

TOY_TEST = """
    from amct_pytorch.backend import get_backend
    from amct_pytorch.backend_testing import BackendConformance

    class TestToy(BackendConformance):
        backend = staticmethod(lambda: get_backend("toy"))
"""


@pytest.mark.slow
def test_a_third_partys_plugin_is_found_once_installed_and_passes_the_kit(tmp_path: Path) -> None:
    site, tests = tmp_path / "site", tmp_path / "tests"
    info = site / "toy_backend-1.0.dist-info"
    info.mkdir(parents=True)
    tests.mkdir()
    (site / "toy_backend.py").write_text(textwrap.dedent(TOY))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ntoy = toy_backend:ToyBackend\n")
    (tests / "test_toy.py").write_text(textwrap.dedent(TOY_TEST))
    program = f"import sys; sys.path.insert(0, {str(site)!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tests), "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\n\d+ passed in", done.stdout), done.stdout


WARNING = """
    import contextlib
    from amct_pytorch.errors import warn_user
    from amct_backends.cpu import CpuBackend

    class WarningBackend(CpuBackend):
        name = "warning"

        def check_index(self, index):
            self.warn("an index")
            super().check_index(index)

        @contextlib.contextmanager
        def exact_numerics(self, device):
            self.warn("numerics")
            yield

        def warn(self, text):
            warn_user(text)
"""


def test_a_warning_of_a_third_partys_backend_points_at_the_users_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "warning_backend.py").write_text(textwrap.dedent(WARNING))
    monkeypatch.syspath_prepend(tmp_path)
    backend = Registry([_point("warning", "warning_backend:WarningBackend")]).get("warning")
    original = conv().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))

    def use() -> None:
        backend.check_index(0)
        with backend.exact_numerics(torch.device("cpu")):
            validate(original, decomposed, torch.ones(1, 64, 8, 8), backend)

    with pytest.warns(AmctWarning) as caught:
        use()
    assert [str(warning.message) for warning in caught] == ["an index", "numerics", "an index", "numerics"]
    assert {warning.filename for warning in caught} == {__file__}
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    starts = [lines[warning.lineno - 1].split("(")[0].strip() for warning in caught]
    assert starts == ["backend.check_index", "with backend.exact_numerics", "validate", "validate"]


class FaultyBackend(CpuBackend):  # type: ignore[misc,valid-type]
    """Raises when asked whether it is available."""

    name = "faulty"

    def unavailable_reason(self) -> str | None:
        raise OSError("no bus")


class _Rounded(TorchFunctionMode):
    """Convolutions rounded to eight bits."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is not torch.conv2d or result.dtype == torch.float64:  # which the reference is in
            return result
        return result + (result.detach().bfloat16().to(result.dtype) - result.detach())


class WrongNumerics(CpuBackend):  # type: ignore[misc,valid-type]
    """Convolves in a lower precision than its tolerance states."""

    @contextlib.contextmanager
    def exact_numerics(self, device: torch.device) -> Iterator[None]:
        with _Rounded():
            yield


class NoSynchronisation(CpuBackend):  # type: ignore[misc,valid-type]
    """Stops the clock when the work is queued, not when it has finished."""

    def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
        worker = threading.Thread(target=lambda: [fn() for _ in range(calls)])
        spent = super().time(worker.start, device=device) / calls
        worker.join()
        return spent


class OncePerGroup(CpuBackend):  # type: ignore[misc,valid-type]
    """Returns the time of all calls instead of their mean."""

    def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
        return super().time(fn, device=device, calls=calls) * calls


class FlagsNotRestored(CpuBackend):  # type: ignore[misc,valid-type]
    """Restores the settings after a success only."""

    @contextlib.contextmanager
    def exact_numerics(self, device: torch.device) -> Iterator[None]:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        yield
        torch.set_float32_matmul_precision(before)


class DefaultsForFlags(CpuBackend):  # type: ignore[misc,valid-type]
    """Sets the settings to assumed defaults instead of restoring them."""

    @contextlib.contextmanager
    def prepared(self, device: torch.device) -> Iterator[None]:
        torch.backends.cudnn.benchmark = True
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = False


class TolerantOnceUsed(CpuBackend):  # type: ignore[misc,valid-type]
    """Has another tolerance after exact_numerics() has been used."""

    used = False

    @contextlib.contextmanager
    def exact_numerics(self, device: torch.device) -> Iterator[None]:
        self.used = True
        yield

    def tolerance(self, dtype: torch.dtype, device: torch.device) -> Tolerance:
        return Tolerance(0.01, 0.05) if self.used else Tolerance(1e-6, 1e-5)


class BlindToMemory(CpuBackend):  # type: ignore[misc,valid-type]
    """Reports no allocations."""

    @contextlib.contextmanager
    def peak_memory(self, device: torch.device) -> Iterator[object]:
        with super().peak_memory(device) as peak:
            yield peak
        peak.bytes = 0


class NoMemoryErrors(CpuBackend):  # type: ignore[misc,valid-type]
    """Does not recognise its own out-of-memory error."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        return False


class EveryIndex(CpuBackend):  # type: ignore[misc,valid-type]
    """Accepts every device index."""

    def device(self, index: int = 0) -> torch.device:
        return torch.device("cpu")


class Silent(CpuBackend):  # type: ignore[misc,valid-type]
    """Is unavailable without a reason."""

    def unavailable_reason(self) -> str | None:
        return ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "check", "why"),
    [
        (WrongNumerics, "test_decomposed_convolutions_are_right", "in float32 on cpu: relative error .*e-03"),
        (WrongNumerics, "test_a_decomposed_network_validates", "the device is wrong"),
        (NoSynchronisation, "test_time_waits_for_the_device", "it must synchronise"),
        (OncePerGroup, "test_time_waits_for_the_device", "it must be in seconds a call"),
        (
            FlagsNotRestored,
            "test_exact_numerics_gives_the_settings_back",
            "after an exception does not restore float32_matmul_precision",
        ),
        (
            DefaultsForFlags,
            "test_prepared_gives_the_settings_back",
            "nested, does not restore cudnn.benchmark: True → False",
        ),
        (
            TolerantOnceUsed,
            "test_every_type_has_a_rank_multiple_and_a_tolerance",
            r"is Tolerance\(norm=1e-06.* but inside of exact_numerics\(\) it is Tolerance\(norm=0.01",
        ),
        (BlindToMemory, "test_peak_memory_sees_an_allocation", "64 MiB were allocated, found 0.0"),
        (NoMemoryErrors, "test_out_of_memory_is_recognised", "must be True of RuntimeError"),
        (EveryIndex, "test_devices_describe_themselves", r"device\(-1\) must raise ConfigError"),
        (Silent, "test_availability_is_stated_in_words", "must be a text, found ''"),
    ],
)
def test_the_kit_fails_on_a_broken_backend(broken: type[Backend], check: str, why: str) -> None:
    kit = type("Kit", (BackendConformance,), {"backend": broken})()
    before, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        with pytest.raises(AssertionError, match=why):
            getattr(kit, check)()
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.benchmark = benchmark


def test_the_kit_skips_with_the_reason_where_the_device_is_absent() -> None:
    point = next(point for point in OURS if point.name == "cuda")
    if point.load()().is_available():
        pytest.skip("there is a CUDA device here")
    kit = type("Kit", (BackendConformance,), {"backend": point.load()})()
    kit.test_availability_is_stated_in_words()
    with pytest.raises(BaseException, match="CUDA") as caught:
        kit.test_settings_are_words()
    assert type(caught.value).__name__ == "SkipTest"
