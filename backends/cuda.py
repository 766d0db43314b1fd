"""NVIDIA GPUs through torch.cuda, and AMD GPUs through ROCm, which has the same interface."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from amct_pytorch.backend import DeviceInfo, Kernel, Tolerance
from amct_pytorch.errors import DeviceError

from . import cuda_kernels
from .accelerator import AcceleratorBackend

# As on the CPU; wider for float64 and float32, which are summed in another order.
_TOLERANCES = {
    torch.float64: Tolerance(norm=1e-13, worst=1e-12),
    torch.float32: Tolerance(norm=1e-5, worst=5e-5),
    torch.float16: Tolerance(norm=2e-3, worst=1e-2),
    torch.bfloat16: Tolerance(norm=1.5e-2, worst=6e-2),
}


class CudaBackend(AcceleratorBackend):
    """GPUs: they compute in every type; tensor cores support float16 from sm_70 on, bfloat16 from sm_80 on."""

    name = "cuda"
    records_kernels = True

    def unavailable_reason(self) -> str | None:
        """What is missing: a CUDA build, a driver, or a GPU."""
        if not torch.backends.cuda.is_built():
            return f"torch {torch.__version__} is built without CUDA: install a CUDA build of torch"
        try:
            if torch.cuda.is_available():
                return None
            torch.cuda.init()
        except Exception as error:  # the driver raises various types
            return f"{error}: check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES"
        return "torch sees no GPU: check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES"

    def devices(self) -> Sequence[DeviceInfo]:
        """The GPUs visible under CUDA_VISIBLE_DEVICES."""
        return [_info(self.name, index) for index in range(torch.cuda.device_count())]

    @contextlib.contextmanager
    def exact_numerics(self, device: torch.device) -> Iterator[None]:
        """Disable TF32, and half-precision accumulation in half-precision matrix products."""
        matmul = torch.backends.cuda.matmul
        switches: list[tuple[Any, str, object]] = [
            (matmul, "allow_fp16_reduced_precision_reduction", False),
            (matmul, "allow_bf16_reduced_precision_reduction", False),
        ]
        # torch has a switch for each operator from 2.9 on, and refuses to read the old ones if those disagree.
        if hasattr(torch.backends.cudnn, "conv"):
            operators = [torch.backends.cudnn.conv, torch.backends.cudnn.rnn, matmul]
            switches += [(operator, "fp32_precision", "ieee") for operator in operators]
        else:
            switches += [(torch.backends.cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
        with _switched(switches):
            yield

    @contextlib.contextmanager
    def prepared(self, device: torch.device) -> Iterator[None]:
        """Let cuDNN choose its fastest algorithm for each shape, for original and decomposed layers alike."""
        with _switched([(torch.backends.cudnn, "benchmark", True)]):
            yield

    def kernels(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> Sequence[Kernel]:
        """Record the kernels by torch.profiler."""
        with self.module.device(device):
            fn()
            self.module.synchronize(device)
            try:
                profiler = cuda_kernels.recording()
                profiler.start()
            except Exception as error:  # torch raises various types
                raise DeviceError(
                    f"torch.profiler does not start on {device} ({type(error).__name__}: {error}): end any other "
                    "profiler of this process"
                ) from error
            try:
                for _ in range(calls):
                    fn()
                self.module.synchronize(device)
            finally:
                profiler.stop()
        found = cuda_kernels.kernels_of(profiler.events() or ())
        if not found:
            raise DeviceError(
                f"torch.profiler recorded no kernel on {device}: end any other profiler (Nsight, another process with "
                "CUPTI), and see what CUPTI says on standard error; leave profile=True out meanwhile"
            )
        return found

    def rank_multiple(self, dtype: torch.dtype) -> int:
        """Channels in a tile of the tensor cores: 16 bytes, and at least 8 channels."""
        return max(8, 16 // dtype.itemsize)

    def tolerance(self, dtype: torch.dtype, device: torch.device) -> Tolerance:
        """As on the CPU; wider for float64 and float32, which are summed in another order."""
        return _TOLERANCES[dtype]

    def settings(self, device: torch.device) -> dict[str, str]:
        """TF32, half-precision accumulation, and how cuDNN chooses its algorithms."""
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        if hasattr(cudnn, "conv"):
            tf32 = {"fp32 conv": cudnn.conv.fp32_precision, "fp32 matmul": matmul.fp32_precision}
        else:
            tf32 = {"TF32 conv": cudnn.allow_tf32, "TF32 matmul": matmul.allow_tf32}
        settings = tf32 | {
            "fp16 sums in fp16": matmul.allow_fp16_reduced_precision_reduction,
            "bf16 sums in bf16": matmul.allow_bf16_reduced_precision_reduction,
            "cudnn.enabled": cudnn.enabled,
            "cudnn.benchmark": cudnn.benchmark,
            "cudnn.deterministic": cudnn.deterministic,
        }
        return {key: str(value) for key, value in settings.items()}


@contextlib.contextmanager
def _switched(switches: Sequence[tuple[Any, str, object]]) -> Iterator[None]:
    """Set attributes during a block, and restore them when it ends."""
    before = [getattr(holder, key) for holder, key, _ in switches]
    try:
        for holder, key, value in switches:
            setattr(holder, key, value)
        yield
    finally:
        for (holder, key, _), value in zip(switches, before, strict=True):
            setattr(holder, key, value)


def _info(backend: str, index: int) -> DeviceInfo:
    properties = torch.cuda.get_device_properties(index)
    rocm = getattr(torch.version, "hip", None)
    capability = (properties.major, properties.minor)
    libraries = {
        "torch": torch.__version__,
        "ROCm" if rocm else "CUDA": rocm or torch.version.cuda,
        "MIOpen" if rocm else "cuDNN": torch.backends.cudnn.version(),
        "driver": _driver(),
    }
    return DeviceInfo(
        backend=backend,
        index=index,
        name=properties.name,
        family=properties.gcnArchName if rocm else "sm_{}{}".format(*capability),
        total_memory=properties.total_memory,
        cache=getattr(properties, "L2_cache_size", 0),
        dtypes=tuple(_TOLERANCES),
        emulated=() if rocm or capability >= (8, 0) else (torch.bfloat16,),
        versions={name: str(version) for name, version in libraries.items() if version},
    )


def _driver() -> str | None:
    """Version of the kernel driver; None on systems other than Linux."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", text)
    return match.group() if match else None
