"""Which of two calls is faster on a device, and with what confidence.

Times on a device are noisy and drift. So the two calls are timed in turn, in pairs whose order alternates, and only
the ratio within each pair counts. A timed group consists of enough calls to take milliseconds, since the time of a
single one would be dominated by its launch on the host. Before each group the last-level cache is overwritten; the
first call of a group pays for that, so both sides have the same number of calls in a group. The speed-up is the median
of the ratios; its confidence interval is a percentile bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap,
1993, chapter 13).

All that assumes that the process gets the CPU. On a busy machine the scheduler decides which call appears faster, with
a narrow interval. So the share of the CPU that the process got is measured too, and too small a share gives no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..backend import Backend
from .cpu_share import LEAST_SHARE, cpu_share, read_counters

UNKNOWN = "unknown"
"""The verdict on times that are not to be trusted."""

# Number of pairs: enough for a percentile bootstrap of a median; a fast layer takes a quarter of a second.
PAIRS = 25

# Confidence level. A model has tens of layers: at 95 % one or two of them would seem to differ by chance.
CONFIDENCE = 0.99

# Relative difference that counts as none: below 1 % it has no practical use, and memory alignment can cause it.
_NEGLIGIBLE = 0.01

# Duration of a group, long compared with the launch of its first call and the resolution of the clock.
_GROUP_SECONDS = 5e-3

# Longest group. Both sides have the same number of calls, so the far slower of two calls could otherwise take minutes.
_MOST_GROUP_SECONDS = 1.0

# Most calls in a group: enough for calls of microseconds, and about the capacity of a GPU's launch queue.
_MOST_CALLS = 1000

# Warm-up, in which clocks reach their working frequency and caching allocators reserve memory.
_WARM_UP_SECONDS = 20e-3

# Number of bootstrap resamples: ten of them lie beyond each end of a 99 % interval.
_RESAMPLES = 2000

# Most bytes to overwrite between groups: a host takes milliseconds for them.
_MOST_CACHE = 256 * 2**20

# Assumed size of a last-level cache, in bytes, if the driver does not report it.
_UNKNOWN_CACHE = 64 * 2**20


@dataclass(frozen=True)
class Timing:
    """Times of one of two compared calls.

    Attributes
    ----------
    median, lower_quartile, upper_quartile
        Statistics of ``samples``, in seconds.
    calls
        Number of calls in a group.
    samples
        Mean seconds per call, for each group.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    calls: int
    samples: tuple[float, ...]


@dataclass(frozen=True)
class SpeedUp:
    """Speed-up of the second of two calls over the first.

    Attributes
    ----------
    ratio
        Median of the paired ratios: time of the first / time of the second; NaN if the times are not to be trusted.
    low, high
        Its 99 % confidence interval; NaN likewise.
    verdict
        "faster", "slower", "no difference seen" if the interval comes within 1 % of equality, or "unknown" if the times
        are not to be trusted.
    """

    ratio: float
    low: float
    high: float
    verdict: str

    def __str__(self) -> str:
        if self.verdict == UNKNOWN:
            return UNKNOWN
        return f"{self.ratio:.2f}× [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Comparison:
    """Two calls timed in turn.

    Attributes
    ----------
    before, after
        Times of the first and of the second call.
    speed_up
        Speed-up of the second over the first.
    cpu_share
        Share of the CPU time that the process could use that it got meanwhile, from 0 to 1; None if unknown.
    doubt
        Why the times are not to be trusted and the speed-up is unknown; None if they are.
    """

    before: Timing
    after: Timing
    speed_up: SpeedUp
    cpu_share: float | None = None
    doubt: str | None = None

    def doubted(self, why: str) -> Comparison:
        """The same times without a speed-up.

        Parameters
        ----------
        why
            Why they are not to be trusted; an earlier reason is kept.
        """
        return replace(self, speed_up=SpeedUp(math.nan, math.nan, math.nan, UNKNOWN), doubt=self.doubt or why)


def compare(
    before: Callable[[], object],
    after: Callable[[], object],
    *,
    backend: Backend,
    device: torch.device,
    pairs: int = PAIRS,
) -> Comparison:
    """Time two calls on a device in turn.

    The speed-up is unknown if the process got less than 0.8 of the CPU time that it could use meanwhile.

    Parameters
    ----------
    before, after
        Calls that queue work on the device; they need not wait for it.
    backend
        Times the calls.
    device
        The device that works.
    pairs
        Number of pairs of groups.
    """
    flush = _cache_flusher(backend, device)
    both = (before, after)
    fastest = [_seconds_a_call(fn, backend, device) for fn in both]
    wanted = max(_calls_in(_GROUP_SECONDS, seconds) for seconds in fastest)
    calls = [min(wanted, _calls_in(_MOST_GROUP_SECONDS, seconds)) for seconds in fastest]
    samples: tuple[list[float], list[float]] = ([], [])
    begin = read_counters()
    for number in range(pairs):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            flush()
            samples[which].append(backend.time(both[which], device=device, calls=calls[which]))
    share = cpu_share(begin, read_counters(), computes_throughout=device.type == "cpu")
    timings = _timing(samples[0], calls[0]), _timing(samples[1], calls[1])
    found = Comparison(*timings, speed_up_of(*samples), share)
    if share is not None and share < LEAST_SHARE:
        return found.doubted(f"the process got {share:.0%} of the CPU time that it could use")
    return found


def speed_up_of(before: Sequence[float], after: Sequence[float]) -> SpeedUp:
    """The speed-up that paired times show.

    Parameters
    ----------
    before, after
        Times of the two sides of each pair, of equal length and in the same unit.
    """
    ratios = np.log(np.asarray(before)) - np.log(np.asarray(after))
    draws = np.random.default_rng(0).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    medians = np.median(ratios[draws], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    if low > math.log1p(_NEGLIGIBLE):
        verdict = "faster"
    elif high < -math.log1p(_NEGLIGIBLE):
        verdict = "slower"
    else:
        verdict = "no difference seen"
    return SpeedUp(math.exp(float(np.median(ratios))), math.exp(float(low)), math.exp(float(high)), verdict)


def _seconds_a_call(fn: Callable[[], object], backend: Backend, device: torch.device) -> float:
    """Warm up, and return the shortest time of a call, in seconds."""
    backend.time(fn, device=device)  # the first call may compile, or choose algorithms
    singles = [backend.time(fn, device=device) for _ in range(2)]  # two, in case the host interrupts one
    spent, seconds = sum(singles), min(singles)
    while spent < _WARM_UP_SECONDS:
        calls = _calls_in(_WARM_UP_SECONDS / 4, seconds)
        found = backend.time(fn, device=device, calls=calls)
        seconds = min(seconds, found)
        spent += max(found * calls, _WARM_UP_SECONDS / 20)
    return seconds


def _calls_in(span: float, seconds: float) -> int:
    """Number of calls of this many seconds each that fill a span of time, in seconds."""
    return max(1, min(_MOST_CALLS, math.ceil(span / max(seconds, 1e-9))))


def _cache_flusher(backend: Backend, device: torch.device) -> Callable[[], object]:
    """A function that overwrites the contents of the last-level cache."""
    cache = backend.devices()[device.index or 0].cache or _UNKNOWN_CACHE
    size = min(cache + cache // 3, _MOST_CACHE)
    return torch.empty(size // 4, dtype=torch.int32, device=device).zero_


def _timing(samples: Sequence[float], calls: int) -> Timing:
    lower, median, upper = np.quantile(samples, [0.25, 0.5, 0.75])
    return Timing(float(median), float(lower), float(upper), calls, tuple(samples))
