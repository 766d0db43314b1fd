"""Ascend NPUs through torch_npu, which is imported only when this backend is used."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from amct_pytorch.backend import DeviceInfo, Tolerance
from amct_pytorch.errors import DeviceError, warn_user

from .accelerator import AcceleratorBackend

# Patterns of torch.npu.get_device_name(), and the family of each. A bare "Ascend910B" is an older, unsupported chip.
_FAMILIES = [
    (r"Ascend910B\d", "Atlas A2"),
    (r"Ascend910_93", "Atlas A3"),
    (r"Ascend950", "Ascend 950"),
]

# As on a GPU: the same number formats, and float32 sums in another order.
_TOLERANCES = {
    torch.float32: Tolerance(norm=1e-5, worst=5e-5),
    torch.float16: Tolerance(norm=2e-3, worst=1e-2),
    torch.bfloat16: Tolerance(norm=1.5e-2, worst=6e-2),
}

# HF32 rounds the operands of float32 products to 11 significant bits, the precision of float16.
_HF32_TOLERANCE = _TOLERANCES[torch.float16]

# Range of the relative error of a product in HF32; that of a product in float32 is far below it.
_HF32_ERRORS = (1e-5, 5e-3)

# Explanation of a failed import of torch_npu, by a text in the message of the exception.
_IMPORT_FAILURES = [
    ("Two accelerators", "torch sees another accelerator, and torch_npu shares a process with none: install a CPU "
     "build of torch, or hide the other one (CUDA_VISIBLE_DEVICES= for GPUs)"),
    ("libascend_hal", "CANN is there, but the driver is not: install it, or mount /usr/local/Ascend/driver into the "
     "container and put its lib64/driver and lib64/common into LD_LIBRARY_PATH"),
    ("cannot open shared object", "CANN is not installed or its environment is not set: run `source "
     "/usr/local/Ascend/ascend-toolkit/set_env.sh` first"),
    ("undefined symbol", "torch, torch_npu and CANN do not fit each other: install versions that do"),
]  # fmt: skip

# Environment variable: unless it is 0, `import torch` imports an installed torch_npu.
_AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"


class NpuBackend(AcceleratorBackend):
    """Atlas A2, Atlas A3 and Ascend 950: convolutions in float16, bfloat16 and float32, contiguous NCHW."""

    name = "npu"
    channels_last = False  # torch_npu does not support the format

    def unavailable_reason(self) -> str | None:
        """What is missing: torch_npu, a torch of its version, CANN, the driver, or a device."""
        return self._reason

    @functools.cached_property
    def _reason(self) -> str | None:
        return _why_not_loaded() or _why_no_device()

    def devices(self) -> Sequence[DeviceInfo]:
        """The NPUs visible under ASCEND_RT_VISIBLE_DEVICES."""
        return [_info(self.name, index) for index in range(self.module.device_count())]

    @contextlib.contextmanager
    def exact_numerics(self, device: torch.device) -> Iterator[None]:
        """Disable HF32, except for convolutions on a device that supports nothing else; a warning then says so."""
        with self._without_hf32():
            if self._only_hf32(device):
                self.module.conv.allow_hf32 = True
            yield

    @contextlib.contextmanager
    def _without_hf32(self) -> Iterator[None]:
        switches = [self.module.conv, self.module.matmul]
        before = [switch.allow_hf32 for switch in switches]
        try:
            for switch in switches:
                switch.allow_hf32 = False
            yield
        finally:
            for switch, allowed in zip(switches, before, strict=True):
                switch.allow_hf32 = allowed

    @functools.cached_property
    def _hf32_found(self) -> dict[torch.device, str | None]:
        """Why a device is known to convolve float32 in HF32 only, by device; None if it does not."""
        return {}

    def _only_hf32(self, device: torch.device) -> bool:
        """Whether a float32 convolution with HF32 disabled fails, or is computed in HF32 anyway. Probed once."""
        if device not in self._hf32_found:
            try:
                with self._without_hf32():
                    how = self._how_only_hf32(device)
            except RuntimeError:  # fails with HF32 too, for example out of memory: the next convolution raises it
                return False
            self._hf32_found[device] = how
            if how is not None:
                warn_user(f"{device}: float32 convolutions are in HF32 even where that is switched off ({how})")
        return self._hf32_found[device] is not None

    def _how_only_hf32(self, device: torch.device) -> str | None:
        """The symptom that a float32 convolution with HF32 disabled is one in HF32, as text; None if it is not."""
        image, weight = _known_values(1, 64, 8, 8), _known_values(64, 64, 1, 1)
        try:
            found = _error_of_conv(image, weight, device)
        except RuntimeError as error:
            self.module.conv.allow_hf32 = True
            try:
                _error_of_conv(image, weight, device)
            finally:
                self.module.conv.allow_hf32 = False
            return f"it fails: {error}"
        return f"its relative error is {found:.0e}" if _HF32_ERRORS[0] < found < _HF32_ERRORS[1] else None

    @contextlib.contextmanager
    def prepared(self, device: torch.device) -> Iterator[None]:
        """Disable compilation of operators at run time, and internal formats, to which moved weights are converted."""
        compiles, recasts = not self.module.is_jit_compile_false(), _internal_format()
        try:
            if compiles:
                self.module.set_compile_mode(jit_compile=False)
            if recasts:
                self.module.config.allow_internal_format = False
            yield
        finally:
            if recasts:
                self.module.config.allow_internal_format = True
            if compiles:
                self.module.set_compile_mode(jit_compile=True)

    @contextlib.contextmanager
    def fallbacks(self) -> Iterator[list[str]]:
        """The operators that torch_npu reports as run on the CPU.

        torch_npu reports each operator once per process, on standard error, not by Python's warnings. Output to
        standard error during the block appears when it ends. With TORCH_CPP_LOG_LEVEL above WARNING the list is empty.
        """
        names: list[str] = []
        with _written_to_standard_error() as written:
            yield names
        for line in written.decode(errors="replace").splitlines():
            if "fall back to run on the CPU" in line:
                names.extend(name for name in re.findall(r"aten::[\w.]+", line) if name not in names)

    def rank_multiple(self, dtype: torch.dtype) -> int:
        """Side of the cube unit's blocks: 16, or 32 along the summed axis of int8."""
        return 32 if dtype == torch.int8 else 16

    def tolerance(self, dtype: torch.dtype, device: torch.device) -> Tolerance:
        """As on a GPU; for float32 that of HF32, if the device has no other convolution."""
        if dtype == torch.float32 and self._only_hf32(device):
            return _HF32_TOLERANCE
        return _TOLERANCES[dtype]

    def settings(self, device: torch.device) -> dict[str, str]:
        """HF32, compilation at run time, internal formats, and the task queue."""
        settings = {
            "HF32 conv": self.module.conv.allow_hf32,
            "HF32 matmul": self.module.matmul.allow_hf32,
            "jit_compile": not self.module.is_jit_compile_false(),
            "allow_internal_format": _internal_format(),
        }
        for variable in ("TASK_QUEUE_ENABLE", "ASCEND_LAUNCH_BLOCKING", "TORCH_NPU_FALLBACK_CPU_DISABLE"):
            settings[variable] = os.environ.get(variable, "unset")
        return {key: str(value) for key, value in settings.items()}

    def compile(self, model: nn.Module) -> Callable[..., object]:
        """The model in torchair's graph mode.

        Raises
        ------
        DeviceError
            torchair cannot be imported.
        """
        try:
            torchair = importlib.import_module("torchair")
        except ImportError as error:
            raise DeviceError(f"to compile for an NPU needs torchair, which comes with torch_npu: {error}") from error
        backend = torchair.get_npu_backend(compiler_config=torchair.CompilerConfig())
        return cast(Callable[..., object], torch.compile(model, backend=backend))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """An OutOfMemoryError of torch, or a RuntimeError with torch_npu's message."""
        return super().is_out_of_memory(error) or (
            isinstance(error, RuntimeError) and "NPU out of memory" in str(error)
        )


def family_of(name: str) -> str:
    """The family of a chip.

    Parameters
    ----------
    name
        Name of the chip, from torch.npu.get_device_name().
    """
    for pattern, family in _FAMILIES:
        if re.match(pattern, name):
            return family
    return f"{name} (none of {', '.join(family for _, family in _FAMILIES)})"


def _why_not_loaded() -> str | None:
    """Import torch_npu, and return why that fails, or None. The environment variables are left as they were."""
    if "torch_npu" in sys.modules:
        return None
    if importlib.util.find_spec("torch_npu") is None:
        return f"torch_npu is not installed: pip install torch-npu=={_release(torch.__version__)}"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("torch_npu")
        if _release(version) != _release(torch.__version__):
            return (
                f"torch_npu {version} needs torch {_release(version)}, found torch {torch.__version__}: "
                "install the version of the one that fits the other"
            )
    environment, modules = dict(os.environ), set(sys.modules)
    try:
        importlib.import_module("torch_npu")
    except Exception as error:  # torch_npu raises ImportError, RuntimeError and plain Exception
        for module in set(sys.modules) - modules:
            if module.partition(".")[0] == "torch_npu":
                del sys.modules[module]
        _restore_environment(environment)
        message = str(error)
        why = next((text for sign, text in _IMPORT_FAILURES if sign in message), "torch_npu cannot be imported")
        return (
            f"{why} ({type(error).__name__}: {message}). To work without the NPU meanwhile, set {_AUTOLOAD}=0: "
            "otherwise `import torch` fails too"
        )
    _restore_environment(environment, only=_AUTOLOAD)
    return None


def _why_no_device() -> str | None:
    advice = "check `npu-smi info`, the rights on /dev/davinci*, and ASCEND_RT_VISIBLE_DEVICES"
    try:
        module = cast(Any, torch).npu
        return None if module.is_available() and module.device_count() > 0 else f"torch_npu sees no NPU: {advice}"
    except Exception as error:  # the driver raises various types
        return f"torch_npu fails to look for an NPU: {error}: {advice}"


@contextlib.contextmanager
def _written_to_standard_error() -> Iterator[bytearray]:
    """What the process writes to standard error during a block, C++ code included; passed on when the block ends."""
    written = bytearray()
    try:
        original = os.dup(2)
    except OSError:  # closed, so nothing can be written
        yield written
        return
    _flush_standard_error()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield written
        finally:
            _flush_standard_error()
            os.dup2(original, 2)
            os.close(original)
            file.seek(0)
            written += file.read()
            with open(2, "wb", closefd=False) as standard_error:
                standard_error.write(written)


def _flush_standard_error() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


def _restore_environment(before: dict[str, str], only: str | None = None) -> None:
    for key in set(os.environ) | set(before):
        if only is not None and key != only:
            continue
        if key in before:
            os.environ[key] = before[key]
        else:
            os.environ.pop(key, None)


def _release(version: str) -> str:
    """The release of a version: 2.13.0 of 2.13.0.post1+cpu."""
    match = re.match(r"\d+(?:\.\d+){0,2}", version)
    return match.group() if match else version


def _internal_format() -> bool:
    """Whether torch_npu may store weights in internal formats of the chip; torch_npu has no public function for it."""
    value = sys.modules["torch_npu"]._C._npu_getOption("ALLOW_INTERNAL_FORMAT")
    return value is not None and value.decode() == "enable"


def _known_values(*shape: int) -> torch.Tensor:
    draw = torch.Generator("cpu").manual_seed(0)
    return torch.randn(shape, generator=draw, dtype=torch.float32, device="cpu")


def _error_of_conv(image: torch.Tensor, weight: torch.Tensor, device: torch.device) -> float:
    """Relative error of a convolution on the device."""
    exact = nn.functional.conv2d(image.double(), weight.double())
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        response = nn.functional.conv2d(image.to(device), weight.to(device)).cpu().double()
    return float((response - exact).norm() / exact.norm())


def _info(backend: str, index: int) -> DeviceInfo:
    module: Any = cast(Any, torch).npu
    properties = module.get_device_properties(index)
    name = module.get_device_name(index)
    dtypes = (torch.float32, torch.float16) + ((torch.bfloat16,) if module.is_bf16_supported() else ())
    versions = {"torch": torch.__version__, "torch_npu": sys.modules["torch_npu"].__version__}
    for library in ("CANN", "DRIVER"):
        with contextlib.suppress(Exception):  # unknown to an older torch_npu, and fails with a broken installation
            versions[library.replace("DRIVER", "driver")] = module.utils.get_cann_version(library)
    return DeviceInfo(
        backend=backend,
        index=index,
        name=name,
        family=family_of(name),
        total_memory=properties.total_memory,
        cache=getattr(properties, "L2_cache_size", 0),
        dtypes=dtypes,
        versions={library: version for library, version in versions.items() if version},
    )
