"""Which budget to try next: bisection, then a second look at what noise may have rejected. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Costs that differ by less than this are as good as equal: it is what latencies repeat to.
_PRECISION = 0.02

# A plan that noise may have hidden is looked for where it would be cheaper by more than this; for less, it is not worth
# an evaluation.
_WORTH_A_SECOND_LOOK = 0.1

# A plan that takes so much more than its budget has not met it: by so much, latency may differ from what it was
# planned for.
_MISSED_BY = 0.1

# Least budget to try where the least that can be met is not known: every network has more in what cannot be split.
LEAST = 0.01


@dataclass(frozen=True)
class Tried:
    """A budget that was tried.

    Attributes
    ----------
    share
        The budget, as a share of what the original takes.
    cost
        What its plan takes, as a share of that too.
    accepted
        Whether the plan's score is good enough.
    """

    share: float
    cost: float
    accepted: bool

    @property
    def met(self) -> bool:
        """Whether the plan takes no more than its budget, or nearly so."""
        return self.cost <= self.share * (1 + _MISSED_BY)

    @property
    def least(self) -> float:
        """The least budget that would have led to the same plan."""
        return min(self.share, self.cost)


def next_share(tried: Sequence[Tried], least: float) -> float | None:
    """The budget to try next, as a share of what the original takes; None where nothing is left to try.

    The geometric middle between the cheapest plan accepted and the next cheaper budget rejected, so that what is still
    possible is known to the same relative precision wherever it lies. Where those two are as good as equal, the gap
    down to the next budget rejected is looked into: had noise rejected the first, nothing below it would ever be seen.

    Parameters
    ----------
    tried
        What was tried so far.
    least
        The least budget that can be met.
    """
    best = min((one.least if one.met else one.cost for one in tried if one.accepted), default=1.0)
    floor = max([least, *(one.share for one in tried if not one.met)])
    rejected = sorted((one for one in tried if not one.accepted and one.share < best), key=lambda one: -one.share)
    above = [best, *(one.least for one in rejected)]
    below = [*(one.share for one in rejected), floor]
    for high, low, width in zip(above, below, (_PRECISION, _WORTH_A_SECOND_LOOK), strict=False):
        if high > max(low, floor) * (1 + width):
            return float(f"{math.sqrt(high * max(low, floor)):.4g}")
    return None
