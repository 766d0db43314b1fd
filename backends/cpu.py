"""The processor of the host."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amct_pytorch.backend import Backend, DeviceInfo, PeakMemory, Tolerance

# Vector or matrix instructions for a type, by their flags in /proc/cpuinfo on x86 and Arm.
_INSTRUCTIONS = {
    torch.bfloat16: {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"},
    torch.float16: {"avx512_fp16", "amx_fp16", "fphp", "asimdhp"},
}

# Four times the largest errors measured. Responses are rounded to the type after each convolution; half-precision types
# are summed in float32.
_TOLERANCES = {
    torch.float64: Tolerance(norm=1e-14, worst=1e-13),
    torch.float32: Tolerance(norm=4e-6, worst=2e-5),
    torch.float16: Tolerance(norm=2e-3, worst=1e-2),
    torch.bfloat16: Tolerance(norm=1.5e-2, worst=6e-2),
}


class CpuBackend(Backend):
    """The host's processor: it computes in every type, slowly in those without native instructions."""

    name = "cpu"

    def unavailable_reason(self) -> None:
        """None: a host always has a processor."""

    def devices(self) -> Sequence[DeviceInfo]:
        """One device, however many sockets the host has."""
        facts = _cpuinfo()
        flags = set(facts.get("flags", facts.get("Features", "")).split())
        return [
            DeviceInfo(
                backend=self.name,
                index=0,
                name=facts.get("model name") or platform.processor() or platform.machine(),
                family=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
                total_memory=_total_memory(),
                cache=_cache(),
                dtypes=tuple(_TOLERANCES),
                emulated=tuple(dtype for dtype, names in _INSTRUCTIONS.items() if not flags & names),
                versions={"torch": torch.__version__},
            )
        ]

    def device(self, index: int = 0) -> torch.device:
        """The device "cpu", which has no index in torch."""
        self.check_index(index)
        return torch.device("cpu")

    def synchronize(self, device: torch.device) -> None:
        """Do nothing, as every call returns when it has finished."""

    def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
        """Mean seconds per call, by the monotonic clock."""
        start = time.perf_counter()
        for _ in range(calls):
            fn()
        return (time.perf_counter() - start) / calls

    @contextlib.contextmanager
    def peak_memory(self, device: torch.device) -> Iterator[PeakMemory]:
        """Measure the memory of newly allocated tensors; scratch memory inside an operator is not included.

        Compiled code runs operator by operator during the block.
        """
        peak = PeakMemory()
        with _TensorMemory() as watched:
            yield peak
        peak.bytes = watched.peak

    @contextlib.contextmanager
    def exact_numerics(self, device: torch.device) -> Iterator[None]:
        """Disable bfloat16 and TF32 inside float32 convolutions and matrix products."""
        # torch has a switch for each kind of operator from 2.9 on; earlier only one, for matrix products.
        operators: list[Any] = [getattr(torch.backends.mkldnn, kind, None) for kind in ("conv", "matmul")]
        switches = [operator for operator in operators if hasattr(operator, "fp32_precision")]
        before = [switch.fp32_precision for switch in switches]
        products = None if switches else torch.get_float32_matmul_precision()
        try:
            for switch in switches:
                switch.fp32_precision = "ieee"
            if products is not None:
                torch.set_float32_matmul_precision("highest")
            yield
        finally:
            for switch, precision in zip(switches, before, strict=True):
                switch.fp32_precision = precision
            if products is not None:
                torch.set_float32_matmul_precision(products)

    def rank_multiple(self, dtype: torch.dtype) -> int:
        """Channels in a block of oneDNN's memory formats: a vector of float32, for every type."""
        return 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8

    def tolerance(self, dtype: torch.dtype, device: torch.device) -> Tolerance:
        """Four times the largest errors measured; half-precision types are summed in float32."""
        return _TOLERANCES[dtype]

    def settings(self, device: torch.device) -> dict[str, str]:
        """Threads, oneDNN, denormals, and the precision of float32 convolutions and matrix products."""
        settings = {
            "threads": str(torch.get_num_threads()),
            "oneDNN": str(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
            "flush denormals": str(_flushes_denormals()),
        }
        for kind in ("conv", "matmul"):
            precision = getattr(getattr(torch.backends.mkldnn, kind, None), "fp32_precision", None)
            if precision is not None:
                settings[f"fp32 {kind}"] = precision
        fast_math = os.environ.get("ONEDNN_DEFAULT_FPMATH_MODE")
        return settings | ({"ONEDNN_DEFAULT_FPMATH_MODE": fast_math} if fast_math else {})

    def is_out_of_memory(self, error: BaseException) -> bool:
        """On the CPU torch raises a plain RuntimeError, and Python a MemoryError."""
        if isinstance(error, MemoryError):
            return True
        return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


class _TensorMemory(TorchDispatchMode):
    """Counts the bytes of the storages that operators allocate, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in given and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self._now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata)
        self.peak = max(self.peak, self._now)
        return result

    def _freed(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _cpuinfo() -> dict[str, str]:
    """The entries of /proc/cpuinfo for the first processor; empty on systems other than Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _total_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 0


def _cache() -> int:
    """Size of the last-level cache in bytes; 0 if the system does not report it."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(path.read_text(encoding="ascii").strip().removesuffix("K")) * 1024)
    return max(sizes, default=0)


def _flushes_denormals() -> bool:
    return bool((torch.tensor([1e-310], dtype=torch.float64, device="cpu") * 1).item() == 0)
