"""What a split of a weight would cost and leave out, and the best that no more than another's cost can buy.

Pure: geometry and spectra in, candidates out.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from ..ranks.choose import Choice
from ..ranks.spectrum import Spectrum
from .weight_group import WeightGroup

# Of each rank of a split so many are tried when all weights are chosen together: those above differ by a few percent.
_MOST_RANKS = 32


@dataclass(frozen=True)
class Candidate:
    """A split of a weight, by a method at some ranks.

    Attributes
    ----------
    method
        Name of the method.
    ranks
        Its ranks.
    parameters
        Weights and biases of the stages, of one layer.
    macs
        Their multiply-accumulates over all known calls of the layers; None where no call is known.
    error
        Relative error in the norm that the spectrum was computed in; see `Spectrum.error`.
    """

    method: str
    ranks: tuple[int, ...]
    parameters: int
    macs: int | None
    error: float

    @property
    def cost(self) -> int:
        """Its multiply-accumulates where they are known, else its parameters."""
        return self.parameters if self.macs is None else self.macs


def candidate_at(group: WeightGroup, ranks: tuple[int, ...], spectrum: Spectrum) -> Candidate:
    """The split of a weight at these ranks, by the method of the group."""
    return Candidate(group.method.name, ranks, group.parameters_at(ranks), group.macs_at(ranks), spectrum.error(ranks))


def best_within(group: WeightGroup, spectrum: Spectrum, cost: int) -> Candidate | None:
    """The split of least error by the method of a group that costs no more; None where each costs more.

    Of its ranks the multiples are tried that the settings ask for, and the full ones: all of a single rank, of
    several the largest last one for all others.

    Parameters
    ----------
    group
        The weight and its method.
    spectrum
        That of the method.
    cost
        In the unit of `Candidate.cost`.
    """
    multiple = group.settings.rank_multiple
    *others, last = ([*range(multiple, full, multiple), full] for full in group.method.full_ranks(group.spec))
    found = []
    for start in itertools.product(*others):
        # Costs grow with each rank.
        count = bisect.bisect_right(last, cost, key=lambda rank: group.cost_at((*start, rank)))
        if count:
            found.append((*start, last[count - 1]))
    return min((candidate_at(group, ranks, spectrum) for ranks in found), key=_error, default=None)


def ranks_to_try(group: WeightGroup) -> list[tuple[int, ...]]:
    """The ranks of a method among which a split of a weight is chosen, when those of all weights are chosen together.

    Multiples that the settings ask for; of many, as many as tell: each some percent above the one before.
    """
    multiple = group.settings.rank_multiple
    steps = [_thinned(list(range(multiple, full + 1, multiple))) for full in group.method.full_ranks(group.spec)]
    return list(itertools.product(*steps))


def ranks_to_measure(group: WeightGroup) -> list[tuple[int, ...]]:
    """The ranks of a method among which a few are sought to be timed, or fitted, in ascending order.

    Of several ranks only those in about equal shares of the full ones, as each pair would cost a measurement. Those
    that would gain nothing are left out.
    """
    multiple = group.settings.rank_multiple
    steps = [list(range(multiple, full + 1, multiple)) for full in group.method.full_ranks(group.spec)]
    if not all(steps):
        return []
    longest = max(steps, key=len)
    shares = [(longest.index(rank) + 1) / len(longest) for rank in _thinned(longest)]
    found = [tuple(ranks[max(1, round(share * len(ranks))) - 1] for ranks in steps) for share in shares]
    return [ranks for ranks in dict.fromkeys(found) if group.gains(ranks)]


def _thinned(ranks: list[int]) -> list[int]:
    if len(ranks) <= _MOST_RANKS:
        return ranks
    ratio = (len(ranks)) ** (1 / (_MOST_RANKS - 1))
    return sorted({ranks[round(ratio**step) - 1] for step in range(_MOST_RANKS)})


def chosen_at_equal_cost(
    alternatives: Mapping[str, WeightGroup], spectra: Mapping[str, Spectrum], first: Choice
) -> tuple[str, Choice]:
    """The method of least error for a weight, each at no more than the cost of the first at ranks that are chosen.

    Parameters
    ----------
    alternatives
        The weight by each method that may split it, by the method's name.
    spectra
        By the method's name, all in the same norm.
    first
        The ranks of the first method.

    Returns
    -------
    method : str
        Its name; the first of several with equal errors.
    choice : Choice
        Its ranks, and in words what it was compared with.
    """
    if len(alternatives) == 1:
        return next(iter(alternatives)), first
    (name, group), *others = alternatives.items()
    limit = candidate_at(group, first.ranks, spectra[name])
    found = [limit, *(best_within(other, spectra[key], limit.cost) for key, other in others)]
    gaining = [one for one in found if one is not None and alternatives[one.method].gains(one.ranks)]
    compared = gaining or [limit]
    best = min(compared, key=_error)
    return best.method, Choice(best.ranks, f"{_comparison(best, compared)}; {name}: {first.reason}")


def _comparison(best: Candidate, compared: list[Candidate]) -> str:
    unit = "parameters" if best.macs is None else "MACs"
    text = f"{best.method}: error {best.error:.2g} at {_count(best.cost)} {unit}"
    rest = ", ".join(f"{one.method} {one.error:.2g}" for one in compared if one is not best)
    return f"{text}; {rest}" if rest else text


def _count(number: int) -> str:
    return f"{number / 1e6:.3g} M" if number >= 1e5 else f"{number:,}"


def _error(candidate: Candidate) -> float:
    return candidate.error
