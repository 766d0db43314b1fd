"""Which splits of a layer are worth their time: found by few measurements. Pure: what measures is given.

The time of a split grows with its rank in steps, as devices compute in blocks. So ranks are bisected, and only where
the times at both ends differ by enough to matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..tensor_decompose.methods.latencies import Ranks

# Times that differ by less, relative to each other, are taken for equal: measurements of one split do.
_EQUAL = 0.02


@dataclass(frozen=True)
class LayerTime:
    """A split of a layer, timed in turn with the layer.

    Attributes
    ----------
    before
        Seconds that the layer takes.
    share
        Time of the split as a share of that.
    faster
        Whether the split is measurably faster: the confidence interval of the share lies below 1.
    """

    before: float
    share: float
    faster: bool


def worth_splitting_at(
    path: Sequence[Ranks], measure: Callable[[Ranks], LayerTime], step: float
) -> dict[Ranks, LayerTime]:
    """The splits that are faster than the layer; of those that take equally long the one of the largest ranks.

    Parameters
    ----------
    path
        Ranks to choose from, ascending.
    measure
        Times the split at some ranks.
    step
        Splits whose shares of the layer's time differ by less are not looked between.
    """
    found: dict[int, LayerTime] = {}

    def at(number: int) -> LayerTime:
        if number not in found:
            found[number] = measure(path[number])
        return found[number]

    between = [(0, len(path) - 1)] if path else []
    while between:
        low, high = between.pop()
        # Where the smaller ranks are not faster, larger ones are not either.
        if at(low).faster and high > low and at(high).share - at(low).share >= step and high - low > 1:
            middle = (low + high) // 2
            between += [(middle, high), (low, middle)]
    kept: dict[Ranks, LayerTime] = {}
    for number in sorted((number for number, time in found.items() if time.faster), reverse=True):
        if all(found[number].share < (1 - _EQUAL) * larger.share for larger in kept.values()):
            kept[path[number]] = found[number]
    return kept
