"""What a device did in a forward pass, summed up from the kernels that it ran, and whether the host kept it waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._report.units import ratio_of
from ..backend import Kernel

# The device is host-bound if it works for a smaller share of the time. A speed-up of the times is that of the device's
# work times the ratio of the two shares, so from this share on the host changes it by a quarter at most. Gaps between
# kernels that are queued in time, of a microsecond or two, leave a device above it unless its kernels are as short.
LEAST_BUSY = 0.8


@dataclass(frozen=True)
class KernelSummary:
    """What the device did in one forward pass of a model, or in all calls of a layer in it.

    Attributes
    ----------
    seconds
        Time of a pass as `benchmark` measured it, without the profiler.
    busy
        Seconds of a pass in which the device ran a kernel, under the profiler; kernels at the same time count once.
    host_bound
        Whether that is less than 0.8 of ``seconds``: the device waits for the host to queue its work.
    launches
        Number of kernels in a pass.
    kinds
        Seconds of the kernels of each kind, the longest first; see `amct_pytorch.backend.KernelKind`.
    short_formats
        Formats shorter than float32 in which kernels multiplied float32 numbers: "TF32", "HF32".
    unrecognised
        Seconds of the kernels of kind "other", by name, the longest first.
    """

    seconds: float
    busy: float
    host_bound: bool
    launches: float
    kinds: dict[str, float]
    short_formats: tuple[str, ...]
    unrecognised: dict[str, float]

    @property
    def busy_share(self) -> float:
        """Share of the time in which the device ran a kernel; above 1 where the profiler made kernels slower."""
        return ratio_of(self.busy, self.seconds)


@dataclass(frozen=True)
class KernelProfile:
    """What the device did for an original, and for what replaces it.

    Attributes
    ----------
    before, after
        The model or layer, and its decomposed form.
    """

    before: KernelSummary
    after: KernelSummary

    @property
    def host_bound(self) -> bool:
        """Whether one of the two waits for the host, so that the speed-up is not the device's alone."""
        return self.before.host_bound or self.after.host_bound


def summary_of(kernels: Sequence[Kernel], calls: int, seconds: float) -> KernelSummary:
    """Sum up the kernels of consecutive passes.

    Parameters
    ----------
    kernels
        The kernels that the device ran, in any order.
    calls
        Number of passes that they are of.
    seconds
        Time of one pass, measured without the profiler.
    """
    kinds: dict[str, float] = {}
    unrecognised: dict[str, float] = {}
    for kernel in kernels:
        kinds[kernel.kind] = kinds.get(kernel.kind, 0.0) + kernel.seconds / calls
        if kernel.kind == "other":
            unrecognised[kernel.name] = unrecognised.get(kernel.name, 0.0) + kernel.seconds / calls
    busy = _covered(kernels) / calls
    return KernelSummary(
        seconds=seconds,
        busy=busy,
        host_bound=busy < LEAST_BUSY * seconds,
        launches=len(kernels) / calls,
        kinds=_longest_first(kinds),
        short_formats=tuple(sorted({kernel.short_format for kernel in kernels if kernel.short_format})),
        unrecognised=_longest_first(unrecognised),
    )


def _covered(kernels: Sequence[Kernel]) -> float:
    """Seconds in which at least one of the kernels ran."""
    total, reached = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        end = kernel.start + kernel.seconds
        total += max(end - max(kernel.start, reached), 0.0)
        reached = max(reached, end)
    return total


def _longest_first(times: dict[str, float]) -> dict[str, float]:
    return dict(sorted(times.items(), key=lambda item: -item[1]))
