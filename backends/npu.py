"""Ascend NPUs through torch_npu, which is imported only when this backend is used."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from amct_pytorch.backend import DeviceInfo, Kernel, Tolerance
from amct_pytorch.errors import DeviceError, warn_user

from . import npu_fallbacks, npu_kernels, npu_loading
from .accelerator import AcceleratorBackend

# Patterns of torch.npu.get_device_name(), and the family of each. A bare "Ascend910B" is an older, unsupported chip.
_FAMILIES = [
    (r"Ascend910B\d", "Atlas A2"),
    (r"Ascend910_93", "Atlas A3"),
    (r"Ascend950", "Ascend 950"),
]

# Families whose cube unit takes a format of its own for weights.
_CONVERTS_WEIGHTS = ("Atlas A2", "Atlas A3")

_COMPILED_TIMES = (
    "Compiled times include the conversion of each convolution's weight to the chip's format, as weights enter "
    "torchair's graph as NCHW inputs; only a .om file has them converted beforehand."
)

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


class NpuBackend(AcceleratorBackend):
    """Atlas A2, Atlas A3 and Ascend 950: convolutions in float16, bfloat16 and float32, contiguous NCHW."""

    name = "npu"
    records_kernels = True
    channels_last = False  # torch_npu does not support the format

    def unavailable_reason(self) -> str | None:
        """What is missing: torch_npu, a torch of its version, CANN, the driver, or a device."""
        return self._reason

    @functools.cached_property
    def _reason(self) -> str | None:
        return npu_loading.why_not_loaded() or npu_loading.why_no_device()

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
        compiles, recasts = self._compiles_operators(), _is_on("ALLOW_INTERNAL_FORMAT")
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
        """The operators that torch_npu reports as run on the CPU, by standard error or by Python's warnings.

        It reports each operator once a process. Output to standard error during the block, and those warnings, appear
        when it ends. `cautions` says where torch_npu is silent.
        """
        with npu_fallbacks.watched() as names:
            yield names

    def cautions(self, device: torch.device, *, compiled: bool = False) -> list[str]:
        """What may run on the CPU unseen, and what the time of a compiled model includes."""
        found = [npu_fallbacks.caution(os.environ)]
        if compiled and family_of(self.module.get_device_name(device)) in _CONVERTS_WEIGHTS:
            found.append(_COMPILED_TIMES)
        return [caution for caution in found if caution is not None]

    def kernels(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> Sequence[Kernel]:
        """Record the kernels by torch_npu's profiler, which takes some seconds to write and read its files."""
        with self.module.device(device):
            fn()
            self.module.synchronize(device)
            with npu_kernels.recorded(device) as found:
                for _ in range(calls):
                    fn()
                self.module.synchronize(device)
        return found

    def _compiles_operators(self) -> bool:
        # torch_npu 2.12 answers is_jit_compile_false() as it did at first, whatever was set since.
        compiles = _is_on("jitCompile")
        return not self.module.is_jit_compile_false() if compiles is None else compiles

    def saturates(self, device: torch.device) -> bool:
        """Whether the chip is in saturation mode (INF_NAN_MODE_FORCE_DISABLE=1), and not in that of INF and NaN."""
        has_infinity = getattr(self.module.utils, "is_support_inf_nan", None)  # older versions have no other mode
        return has_infinity is not None and not has_infinity()

    def rank_multiple(self, dtype: torch.dtype) -> int:
        """Side of the cube unit's blocks: 16, or 32 along the summed axis of int8."""
        return 32 if dtype == torch.int8 else 16

    def tolerance(self, dtype: torch.dtype, device: torch.device) -> Tolerance:
        """As on a GPU; for float32 that of HF32, if the device has no other convolution."""
        if dtype == torch.float32 and self._only_hf32(device):
            return _HF32_TOLERANCE
        return _TOLERANCES[dtype]

    def settings(self, device: torch.device) -> dict[str, str]:
        """HF32, compilation at run time, internal formats, overflow, and the task queue."""
        settings = {
            "HF32 conv": self.module.conv.allow_hf32,
            "HF32 matmul": self.module.matmul.allow_hf32,
            "jit_compile": self._compiles_operators(),
            "allow_internal_format": bool(_is_on("ALLOW_INTERNAL_FORMAT")),
            "saturation mode": self.saturates(device),
        }
        for variable in ("TASK_QUEUE_ENABLE", "ASCEND_LAUNCH_BLOCKING", "TORCH_NPU_FALLBACK_CPU_DISABLE"):
            settings[variable] = os.environ.get(variable, "unset")
        return {key: str(value) for key, value in settings.items()}

    def compile(self, model: nn.Module) -> Callable[..., object]:
        """The model in torchair's graph mode, for inputs of fixed sizes.

        Raises
        ------
        DeviceError
            torchair cannot be used.
        """
        try:
            torchair = importlib.import_module("torchair")  # torch_npu imports it at its first use only
            config = torchair.CompilerConfig()
            # Weights stay where they are, so the graph need not ask for their addresses in each call.
            config.experimental_config.frozen_parameter = True
            backend = torchair.get_npu_backend(compiler_config=config)
        except Exception as error:  # of any type, as CANN's Python packages fail in many ways
            raise DeviceError(
                f"to compile for an NPU needs torchair, which comes with torch_npu, and it cannot be used "
                f"({type(error).__name__}: {error}): leave compiled=True out, or install what that names; torchair "
                "needs CANN's environment (set_env.sh) and its Python packages"
            ) from error
        return cast(Callable[..., object], torch.compile(model, backend=backend, dynamic=False))

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


def _is_on(option: str) -> bool | None:
    """Whether an option of torch_npu is on; None if it was never set. torch_npu has no public function for all."""
    value = sys.modules["torch_npu"]._C._npu_getOption(option)
    return value.decode() == "enable" if value else None


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
