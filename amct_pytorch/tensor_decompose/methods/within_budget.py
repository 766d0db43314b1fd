"""Splits of all weights chosen together: the least expected damage within a budget. Pure: spectra in, choices out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import BudgetError
from ..ranks.budget import Budget, most_within
from ..ranks.choose import Choice
from ..ranks.influence import PROPORTIONAL, Influence
from ..ranks.knapsack import Option, least_cost, least_damage, undominated
from ..ranks.spectrum import Spectrum
from .candidates import Candidate, candidate_at, ranks_to_try
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
    """

    macs: int | None
    parameters: int


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
    """

    by_method: Mapping[str, WeightGroup]
    spectra: Mapping[str, Spectrum]
    influence: Influence = PROPORTIONAL
    added_biases: int = 0

    @property
    def group(self) -> WeightGroup:
        """The weight, by one of the methods."""
        return next(iter(self.by_method.values()))

    def candidates(self) -> list[Candidate]:
        """The splits that gain something, by every method."""
        return [
            candidate_at(group, ranks, self.spectra[name])
            for name, group in self.by_method.items()
            for ranks in ranks_to_try(group)
            if group.gains(ranks)
        ]

    def cost(self, candidate: Candidate | None, *, by_macs: bool) -> int:
        """What the model takes for it, in MACs or parameters; with None for a candidate, as it is."""
        if by_macs:
            return self.group.macs if candidate is None else candidate.macs or 0
        if candidate is None:
            return self.group.spec.parameters
        return candidate.parameters + self.added_biases * self.group.spec.out_channels

    def damage(self, candidate: Candidate | None) -> float:
        """The expected relative error of the model's outputs; with None for a candidate, none."""
        return 0.0 if candidate is None else self.influence.damage(candidate.error)


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a budget.

    Attributes
    ----------
    verdicts
        For each weight the method and its ranks, or, where it is kept, the reason in words.
    summary
        What the model takes then, and its expected damage, in words.
    """

    verdicts: tuple[tuple[str, Choice] | str, ...]
    summary: str


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
    what, share = budget.limit
    by_macs = before.macs is not None if what == "damage" else what == "macs"
    total = before.macs if by_macs and before.macs is not None else before.parameters
    unit = "MACs" if by_macs else "parameters"
    candidates: list[list[Candidate | None]] = [[None, *weight.candidates()] for weight in weights]
    options = [
        [Option(weight.cost(one, by_macs=by_macs), weight.damage(one) ** 2) for one in of_weight]
        for weight, of_weight in zip(weights, candidates, strict=True)
    ]
    fixed = total - sum(of_weight[0].cost for of_weight in options)
    within_damage = what == "damage"
    chosen = (
        least_cost(options, share**2) if within_damage else least_damage(options, most_within(share, total) - fixed)
    )
    if chosen is None:
        least = fixed + sum(min(option.cost for option in of_weight) for of_weight in options)
        reachable = math.ceil(least / max(total, 1) * 1e4) / 1e4
        raise BudgetError(
            f"budget: {budget} cannot be reached: the least is {what}={reachable:g}, with {fixed / max(total, 1):.1%} "
            f"of the {unit} in what cannot be split: allow more, or let more layers be split "
            '(method="auto", rule="any", no rules that keep layers)',
            reachable,
        )
    taken = [of_weight[index] for of_weight, index in zip(options, chosen, strict=True)]
    damage = math.fsum(option.damage for option in taken)
    after = (fixed + sum(option.cost for option in taken)) / max(total, 1)
    verdicts = tuple(
        _verdict(weight.group.settings.rank_multiple, of_weight, options_of_weight, index, total, damage, unit)
        for weight, of_weight, options_of_weight, index in zip(weights, candidates, options, chosen, strict=True)
    )
    return Chosen(verdicts, f"Budget {budget}: {after:.1%} of the {unit}, expected damage {math.sqrt(damage):.3g}.")


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
        return f"no split at multiples of {multiple} has fewer parameters and MACs"
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
