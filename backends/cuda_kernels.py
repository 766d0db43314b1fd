"""The kernels in a recording of torch.profiler on a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # not exported, but documented

from amct_pytorch.backend import Kernel, KernelKind

# Parts of kernel names in lower case, and what such a kernel does; the first that matches decides. The names are those
# of cuDNN, cuBLAS, CUTLASS, torch and Triton, plain or mangled by C++.
_KINDS: list[tuple[str, KernelKind]] = [
    # The driver's own operations, and torch's copies to other strides or another type.
    (r"^memcpy|^memset|direct_copy|copy_device_to_device|batchedcopy|float16_copy", "copy"),
    # torch.compile: a name lists all operators that were fused, so its prefix decides. A template (tem) is a
    # convolution if the name says so, else a product.
    (r"^triton_poi", "elementwise"),
    (r"^triton_(red|per)", "reduction"),
    (r"^triton_tem.*conv", "convolution"),
    (r"^triton_(tem|mm)", "matrix product"),
    # cuDNN's kernels for tensor cores take NHWC only: it converts NCHW inputs and weights to it, and outputs back. So
    # does MIOpen, by batched_transpose.
    (
        r"nchwtonhwc|nhwctonchw|generictranspose|permutationkernel|batched_transpose|transpose_readwrite",
        "format conversion",
    ),
    # Loops over elements of torch and cuDNN; in eval mode batch normalisation is one.
    (r"elementwise_kernel|pointwise|op_tensor|add_tensor|upsample|bn_fw_inf|batch_norm_transform", "elementwise"),
    # Fused attention is several kinds at once.
    (r"sdpa|flash_|fmha|attention", "other"),
    # Pooling, means, sums, softmax, and the statistics of normalisation; not the sums of products split along K.
    (r"pool|softmax|(?<!splitk)reduce_kernel|norm", "reduction"),
    # Implicit products (fprop; dgrad and wgrad in the backward pass), Winograd, FFT, unfolding, and what cuDNN runs for
    # them, such as offsets and transformed weights. igemm_… and miopen are MIOpen's.
    (
        r"fprop|dgrad|wgrad|conv(?!er)|winograd|im2col|col2im|vol2col|col2vol|fft2d|cudnn|igemm_(fwd|bwd|wrw)|miopen",
        "convolution",
    ),
    # cuBLAS, whose kernels are called nvjet from Hopper on, CUTLASS, and rocBLAS (cijk).
    (r"gemm|gemv|nvjet|matmul|cublas|cutlass|splitk|^cijk", "matrix product"),
]

# Products in TF32: by name, or by the shape of the instruction, 16×8×8, whose name in half precision has the type too.
_TF32 = re.compile(r"tf32|^(?!.*fp?16).*s1688")


def kernels_of(events: Iterable[Any]) -> list[Kernel]:
    """The kernels, copies and fills among the events of a recording.

    Parameters
    ----------
    events
        Events of torch.profiler: those of the host, and ranges that the user has named, are left out.
    """
    return [
        Kernel(
            name=event.name,
            kind=kind_of(event.name),
            start=event.time_range.start / 1e6,
            seconds=event.time_range.elapsed_us() / 1e6,
            short_format="TF32" if _TF32.search(event.name.lower()) else None,
        )
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]


def kind_of(name: str) -> KernelKind:
    """What a kernel does.

    Parameters
    ----------
    name
        Its name.
    """
    return next((kind for pattern, kind in _KINDS if re.search(pattern, name.lower())), "other")


def recording() -> torch.profiler.profile:
    """A profiler of the device's activity alone, as recording the host's operators would slow it down further."""
    # Without acc_events some releases warn of cycles that it does not have.
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True)
