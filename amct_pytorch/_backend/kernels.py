"""What a device ran, kernel by kernel, as the profiler of its backend records it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KernelKind = Literal[
    "convolution", "matrix product", "format conversion", "elementwise", "reduction", "copy", "CPU", "other"
]
"""What a kernel does.

"format conversion" reorders a tensor between memory formats (NCHW and NHWC, or a chip's internal ones), "reduction" is
pooling, sums, means and softmax, "CPU" runs on the device's own scalar processor, and "other" is not recognised.
"""


@dataclass(frozen=True)
class Kernel:
    """One run of a kernel on the device.

    Attributes
    ----------
    name
        Its name in the device's own library.
    kind
        What it does.
    start
        When it began, in seconds from an origin that all kernels of one recording share.
    seconds
        How long it ran.
    short_format
        The shorter format in which it multiplied float32 numbers, "TF32" or "HF32"; None if it did not, or if the
        profiler does not say.
    """

    name: str
    kind: KernelKind
    start: float
    seconds: float
    short_format: str | None = None
