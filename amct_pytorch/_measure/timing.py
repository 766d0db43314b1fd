"""Which of two calls is faster on a device, and how sure that is.

A device and its host are noisy, and drift. So the two are timed in turn, in pairs, and it is the ratio within each
pair that counts; the order changes from pair to pair. Each time is that of a group of calls that together take
milliseconds, since the start of a single call would be the host's, not the device's. Before each group the
last-level cache is overwritten; the first call of a group pays for that, so both have as many calls in a group. The
speed-up is the median of the ratios, its confidence interval a percentile bootstrap (Efron & Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..backend import Backend

# Number of pairs: enough for a percentile bootstrap of a median, at a quarter of a second for a fast layer.
PAIRS = 25

# Level of the confidence interval. A model has tens of layers, so at 95 % one or two would differ by chance.
CONFIDENCE = 0.99

# Differences below 1 % are of no use to anybody, and where in memory a tensor happens to lie can cause them.
_NEGLIGIBLE = 0.01

# A group lasts so long that neither the launch of its first call nor the resolution of the clock counts.
_GROUP_SECONDS = 5e-3

# Both sides have as many calls in a group, so the slower of two very different ones would take minutes.
_MOST_GROUP_SECONDS = 1.0

# Of calls that take microseconds a group needs no more; the launch queue of a GPU holds about as many.
_MOST_CALLS = 1000

# Until then clocks rise to their working frequency, and caching allocators get their memory.
_WARM_UP_SECONDS = 20e-3

# Bootstrap samples: ten lie beyond each end of an interval of 99 %.
_RESAMPLES = 2000

# No more bytes than this are overwritten between groups, as that takes milliseconds on a host.
_MOST_CACHE = 256 * 2**20

# A last-level cache whose size the driver does not give is taken to be this large.
_UNKNOWN_CACHE = 64 * 2**20


@dataclass(frozen=True)
class Timing:
    """Times of one thing.

    Attributes
    ----------
    median, lower_quartile, upper_quartile
        Seconds a call, over the groups.
    calls
        Number of calls in a group.
    samples
        Seconds a call, for each group.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    calls: int
    samples: tuple[float, ...]


@dataclass(frozen=True)
class SpeedUp:
    """How many times faster the second of two things is.

    Attributes
    ----------
    ratio
        Median of the paired ratios: time of the first / time of the second.
    low, high
        Its confidence interval of 99 %.
    verdict
        "faster", "slower", or "no difference seen" where the interval reaches within 1 % of equality.
    """

    ratio: float
    low: float
    high: float
    verdict: str

    def __str__(self) -> str:
        return f"{self.ratio:.2f}× [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Comparison:
    """Two things timed in turn.

    Attributes
    ----------
    before, after
        Times of the first and of the second.
    speed_up
        Of the second over the first.
    """

    before: Timing
    after: Timing
    speed_up: SpeedUp


def compare(
    before: Callable[[], object],
    after: Callable[[], object],
    *,
    backend: Backend,
    device: torch.device,
    pairs: int = PAIRS,
) -> Comparison:
    """Time two calls on a device in turn.

    Parameters
    ----------
    before, after
        Calls that give work to the device; they need not wait for it.
    pairs
        Number of groups of each.
    """
    flush = _cache_flusher(backend, device)
    both = (before, after)
    fastest = [_seconds_a_call(fn, backend, device) for fn in both]
    wanted = max(_calls_in(_GROUP_SECONDS, seconds) for seconds in fastest)
    calls = [min(wanted, _calls_in(_MOST_GROUP_SECONDS, seconds)) for seconds in fastest]
    samples: tuple[list[float], list[float]] = ([], [])
    for number in range(pairs):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            flush()
            samples[which].append(backend.time(both[which], device=device, calls=calls[which]))
    return Comparison(_timing(samples[0], calls[0]), _timing(samples[1], calls[1]), speed_up_of(*samples))


def speed_up_of(before: Sequence[float], after: Sequence[float]) -> SpeedUp:
    """The speed-up that paired times show.

    Parameters
    ----------
    before, after
        Times of the first and of the second of each pair, in the same unit.
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
    """Warm up, and see how long a call takes at its fastest."""
    backend.time(fn, device=device)  # may compile, or choose its algorithms
    singles = [backend.time(fn, device=device) for _ in range(2)]  # the host may interrupt one
    spent, seconds = sum(singles), min(singles)
    while spent < _WARM_UP_SECONDS:
        calls = _calls_in(_WARM_UP_SECONDS / 4, seconds)
        found = backend.time(fn, device=device, calls=calls)
        seconds = min(seconds, found)
        spent += max(found * calls, _WARM_UP_SECONDS / 20)
    return seconds


def _calls_in(span: float, seconds: float) -> int:
    """How many calls take a span of time, each of them some seconds."""
    return max(1, min(_MOST_CALLS, math.ceil(span / max(seconds, 1e-9))))


def _cache_flusher(backend: Backend, device: torch.device) -> Callable[[], object]:
    """Overwrite what lies in the last-level cache."""
    cache = backend.devices()[device.index or 0].cache or _UNKNOWN_CACHE
    size = min(cache + cache // 3, _MOST_CACHE)
    return torch.empty(size // 4, dtype=torch.int32, device=device).zero_


def _timing(samples: Sequence[float], calls: int) -> Timing:
    lower, median, upper = np.quantile(samples, [0.25, 0.5, 0.75])
    return Timing(float(median), float(lower), float(upper), calls, tuple(samples))
