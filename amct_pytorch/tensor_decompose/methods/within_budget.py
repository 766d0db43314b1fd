"""Splits of all weights chosen together: the least expected damage within a budget. Pure: spectra in, choices out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...errors import BudgetError
from ..ranks.budget import Budget, most_within
from ..ranks.choose import Choice
from ..ranks.error_curve import PROPORTIONAL, ErrorCurve
from ..ranks.knapsack import Option, least_cost, least_damage, undominated
from ..ranks.spectrum import Spectrum
from .candidates import Candidate, candidate_at, ranks_to_try
from .latencies import LatencyProof, LayerLatency
from .weight_group import WeightGroup


@dataclass(frozen=True)
class ModelCost:
    """What a whole model takes before it is decomposed.

    Attributes
    ----------
    macs
        Multiply-accumulates of all layers that the methods in use are for; None where they are not known.
    parameters
        Of the whole model.
    latency
        Of a run of the whole model, in nanoseconds; None where it was not measured.
    """

    macs: int | None
    parameters: int
    latency: int | None = None


@dataclass(frozen=True)
class OnData:
    """What is to be expected of the splits of a weight by one method, on data.

    Attributes
    ----------
    spectrum
        Of the weight seen through its inputs.
    after_fit
        What a fit to the data leaves of the errors that the spectrum lets expect.
    """

    spectrum: Spectrum
    after_fit: ErrorCurve = PROPORTIONAL


@dataclass(frozen=True)
class Weight:
    """What a weight may become.

    Attributes
    ----------
    by_method
        The weight by each method that may split it, by the method's name.
    spectra
        By the method's name, all in the same norm.
    influence
        How far errors in this norm move the model's outputs.
    added_biases
        How many of its layers get a bias that they have not.
    latency
        How long its layers take, as they are and split; None where it was not measured.
    after_fit
        By the method's name, what a fit leaves of the errors that its spectrum lets expect; as they are where there
        is none.
    """

    by_method: Mapping[str, WeightGroup]
    spectra: Mapping[str, Spectrum]
    influence: ErrorCurve = PROPORTIONAL
    added_biases: int = 0
    latency: LayerLatency | None = None
    after_fit: Mapping[str, ErrorCurve] = field(default_factory=dict)

    @property
    def group(self) -> WeightGroup:
        """The weight, by one of the methods."""
        return next(iter(self.by_method.values()))

    def candidates(self) -> list[Candidate]:
        """The splits that gain something, by every method; where the layers were timed, those that are faster."""
        if self.latency is not None:
            tried = [(name, ranks) for name, ranks in self.latency.after if name in self.by_method]
        else:
            tried = [
                (name, ranks)
                for name, group in self.by_method.items()
                for ranks in ranks_to_try(group)
                if group.gains(ranks)
            ]
        return [self._candidate(name, ranks) for name, ranks in tried]

    def _candidate(self, method: str, ranks: tuple[int, ...]) -> Candidate:
        expected = candidate_at(self.by_method[method], ranks, self.spectra[method])
        return replace(expected, error=self.after_fit.get(method, PROPORTIONAL).at(expected.error))

    def cost(self, candidate: Candidate | None, what: str) -> int:
        """What the model takes for it, in "macs", "parameters" or "latency"; with None for a candidate, as it is."""
        if what == "latency":
            assert self.latency is not None, "only layers that were timed are chosen from by their times"
            return self.latency.before if candidate is None else self.latency.after[candidate.method, candidate.ranks]
        if what == "macs":
            return self.group.macs if candidate is None else candidate.macs or 0
        if candidate is None:
            return self.group.spec.parameters
        return candidate.parameters + self.added_biases * self.group.spec.out_channels

    def damage(self, candidate: Candidate | None) -> float:
        """The expected relative error of the model's outputs; with None for a candidate, none."""
        return 0.0 if candidate is None else self.influence.at(candidate.error)


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a budget.

    Attributes
    ----------
    verdicts
        For each weight the method and its ranks, or, where it is kept, the reason in words.
    summary
        What the model takes then, and its expected damage, in words.
    share
        What the model takes then, as a share of what it took.
    damage
        The expected relative error of its outputs.
    proof
        For a budget of latency, what was measured of it; None where nothing was.
    """

    verdicts: tuple[tuple[str, Choice] | str, ...]
    summary: str
    share: float
    damage: float
    proof: LatencyProof | None = None


_UNITS = {"macs": "MACs", "parameters": "parameters", "latency": "time"}


class Problem:
    """The choice among the splits of all weights for a budget.

    Parameters
    ----------
    budget
        Of the whole model.
    before
        What the model takes.
    weights
        Those that may be split.
    """

    def __init__(self, budget: Budget, before: ModelCost, weights: Sequence[Weight]) -> None:
        self._budget, self._weights = budget, weights
        what, self._share = budget.limit
        cost = ("parameters" if before.macs is None else "macs") if what == "damage" else what
        self._unit = _UNITS[cost]
        self._total: int = getattr(before, cost) or 0  # of a model without layers
        self._candidates: list[list[Candidate | None]] = [[None, *weight.candidates()] for weight in weights]
        self._options = [
            [Option(weight.cost(one, cost), weight.damage(one) ** 2) for one in of_weight]
            for weight, of_weight in zip(weights, self._candidates, strict=True)
        ]
        self._fixed: float = self._total - sum(options[0].cost for options in self._options)

    @property
    def solution(self) -> list[int] | None:
        """For each weight the number of its best option; None where the budget cannot be met."""
        if self._budget.damage is not None:
            return least_cost(self._options, self._share**2)
        return least_damage(self._options, most_within(self._share, self._total) - self._fixed)

    @property
    def cheapest(self) -> list[int]:
        """For each weight the number of its option of least cost."""
        return [min(range(len(options)), key=lambda index: options[index].cost) for options in self._options]

    def saved(self, solution: Sequence[int]) -> list[float]:
        """For each weight what its option saves."""
        return [options[0].cost - options[index].cost for options, index in zip(self._options, solution, strict=True)]

    def splits(self, solution: Sequence[int]) -> list[Candidate | None]:
        """For each weight its split; None where it is kept."""
        return [of_weight[index] for of_weight, index in zip(self._candidates, solution, strict=True)]

    def unreachable(self, least: float) -> BudgetError:
        """The error that the budget cannot be met, with the least share that can be."""
        what = self._budget.limit[0]
        limits = f"{max(self._fixed, 0) / max(self._total, 1):.1%} of the {self._unit} in what cannot be split"
        if what == "latency":
            limits = f"every layer split as is fastest, and {limits}"
        reachable = math.ceil(least * 1e4) / 1e4
        return BudgetError(
            f"budget: {self._budget} cannot be reached: the least is {what}={reachable:g}, with {limits}: allow more, "
            'or let more layers be split (method="auto", rule="any", no rules that keep layers)',
            reachable,
        )

    def share(self, solution: Sequence[int]) -> float:
        """What the model takes with these options, as a share of what it took."""
        taken = sum(options[index].cost for options, index in zip(self._options, solution, strict=True))
        return (self._fixed + taken) / max(self._total, 1)

    def chosen(self, solution: Sequence[int]) -> Chosen:
        """These options, and in words what they cost, and what others would have."""
        damage = math.fsum(options[index].damage for options, index in zip(self._options, solution, strict=True))
        verdicts = tuple(
            _verdict(weight.group.settings.rank_multiple, candidates, options, index, self._total, damage, self._unit)
            for weight, candidates, options, index in zip(
                self._weights, self._candidates, self._options, solution, strict=True
            )
        )
        share, damage = self.share(solution), math.sqrt(damage)
        summary = f"Budget {self._budget}: {share:.1%} of the {self._unit}, expected damage {damage:.3g}."
        return Chosen(verdicts, summary, share, damage)


def chosen_within(budget: Budget, before: ModelCost, weights: Sequence[Weight]) -> Chosen:
    """The split of every weight, so that the expected damage is least within the budget.

    Parameters
    ----------
    budget
        Of the whole model.
    before
        What the model takes.
    weights
        Those that may be split.

    Raises
    ------
    BudgetError
        The budget cannot be met; the message says what the least is.
    """
    problem = Problem(budget, before, weights)
    solution = problem.solution
    if solution is None:
        raise problem.unreachable(problem.share(problem.cheapest))
    return problem.chosen(solution)


def _verdict(
    multiple: int,
    candidates: Sequence[Candidate | None],
    options: Sequence[Option],
    index: int,
    total: int,
    damage: float,
    unit: str,
) -> tuple[str, Choice] | str:
    """The choice, and in words what the next better and the next cheaper ones would change."""
    if len(candidates) == 1:
        wanted = "is measurably faster" if unit == _UNITS["latency"] else "has fewer parameters and MACs"
        return f"no split at multiples of {multiple} {wanted}"
    line = undominated(options)
    # What was chosen is on that line, or equal in damage to one there that costs less, which rounding has hidden.
    place = next((at for at, other in enumerate(line) if options[other].damage <= options[index].damage), 0)
    neighbours = [(place + 1, "next better"), (place - 1, "next cheaper")]
    texts = []
    for at, words in neighbours:
        if 0 <= at < len(line):
            change = _change(options[index], options[line[at]], total, damage, unit)
            texts.append(f"{words}: {_described(candidates[line[at]])}, {change}")
    chosen = candidates[index]
    if chosen is None:
        return f"kept within the budget; {'; '.join(texts)}" if texts else "kept within the budget"
    return chosen.method, Choice(chosen.ranks, f"{_described(chosen)} within the budget; {'; '.join(texts)}")


def _described(candidate: Candidate | None) -> str:
    return "keep" if candidate is None else f"{candidate.method} {', '.join(map(str, candidate.ranks))}"


def _change(chosen: Option, other: Option, total: int, damage: float, unit: str) -> str:
    text = f"{(other.cost - chosen.cost) / total:+.2%} of the {unit}"
    after = max(0.0, damage + other.damage - chosen.damage)
    return f"{text}, {math.sqrt(after / damage) - 1:+.1%} damage" if damage else text
