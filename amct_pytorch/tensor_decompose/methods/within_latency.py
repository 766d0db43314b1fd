"""Splits of all weights chosen together for a budget of latency: by the times of layers, proved on the whole model.

Layers timed alone say which of them are worth splitting, and how. They do not add up to the time of the model: there
they find other things in the caches, and what lies between them takes time too. So each choice is measured as a whole,
the times of the layers are rescaled by what that has shown, and it is chosen again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...errors import warn_user
from ..ranks.budget import Budget
from .candidates import Candidate
from .latencies import LatencyProof, Measured
from .within_budget import Chosen, ModelCost, Problem, Weight

# Choices that are measured as a whole: a first one, and three with rescaled times.
_MOST_ROUNDS = 4
# How far the time measured may be above the budget, relative to it: what a quiet machine varies by.
_OVER = 0.02
# How far below the time expected it may be, relative to that, before it is chosen again for less damage.
_UNDER = 0.1

Measure = Callable[[Sequence[Candidate | None]], Measured]
"""Times the model with these splits of its weights, None where one is kept, in turn with the original."""


@dataclass(frozen=True)
class _Round:
    """A choice that was measured as a whole, made with the times of layers multiplied by a scale."""

    problem: Problem
    solution: list[int]
    measured: Measured
    scale: float

    @property
    def expected(self) -> float:
        return self.problem.share(self.solution)

    @property
    def saved_alone(self) -> float:
        """Share of the time that the layers alone save."""
        return (1 - self.expected) / self.scale

    @property
    def saved(self) -> float:
        """Share of the time that the model saves."""
        return 1 - self.measured.share

    def chosen(self, rounds: int, device: str) -> Chosen:
        found = self.problem.chosen(self.solution)
        one = self.measured
        proof = LatencyProof(self.expected, one.share, one.low, one.high, rounds, one.cpu_share, device)
        summary, damage = found.summary.split(":")[0], found.damage
        return dataclasses.replace(found, summary=f"{summary}: {proof}; expected damage {damage:.3g}.", proof=proof)


def chosen_within_latency(
    budget: Budget, before: ModelCost, weights: Sequence[Weight], measure: Measure, device: str
) -> Chosen:
    """The split of every weight, so that the expected damage is least within a budget of latency.

    Parameters
    ----------
    budget
        Of the whole model.
    before
        What the model takes, with its latency.
    weights
        Those that may be split, with their latencies.
    measure
        Times a choice.
    device
        Where and how it is measured, in words.

    Returns
    -------
    Chosen
        What was measured to be faster than the original; or nothing split, with a warning.

    Raises
    ------
    BudgetError
        The budget cannot be met; the message says what the least is.
    """
    limit = budget.limit[1] * (1 + _OVER)
    scale = _first_scale(before, weights)
    rounds: list[_Round] = []
    while len(rounds) < _MOST_ROUNDS:
        problem = Problem(budget, before, [_rescaled(weight, scale) for weight in weights])
        best = problem.solution
        solution = problem.cheapest if best is None else best
        if not any(solution):
            if best is not None:  # all of the time is allowed
                return problem.chosen(solution)
            return _nothing(budget, weights, f"no split of a layer is measurably faster on {device}")
        if any(solution == one.solution for one in rounds):
            break
        last = _Round(problem, solution, measure(problem.splits(solution)), scale)
        rounds.append(last)
        if not last.measured.faster:
            break
        reached = last.measured.share
        if best is None and reached > limit:
            raise problem.unreachable(reached)
        if (1 - _UNDER) * last.expected <= reached <= limit or last.expected >= 1:
            break
        scale = _next_scale(rounds, 1 - budget.limit[1])
    faster = [one for one in rounds if one.measured.faster]
    if not faster:
        rounds += _put_back(rounds[-1], measure)
        faster = [one for one in rounds if one.measured.faster]
    if not faster:
        return _nothing(budget, weights, f"no decomposed model is measurably faster on {device}")
    within = [one for one in faster if one.measured.share <= limit]
    if within:
        return min((one.chosen(len(rounds), device) for one in within), key=lambda one: one.damage)
    fastest = min(faster, key=lambda one: one.measured.share)
    warn_user(
        f"budget: {budget} is not reached: the decomposed model takes {fastest.measured.share:.1%} of the time, which "
        f"the times of its layers do not predict on {device}: allow more, or keep other programs off the device"
    )
    return fastest.chosen(len(rounds), device)


def _first_scale(before: ModelCost, weights: Sequence[Weight]) -> float:
    """What to multiply the times of layers by at first, so that together they take no longer than the model."""
    alone = sum(weight.cost(None, "latency") for weight in weights)
    return min(1.0, (before.latency or 0) / max(alone, 1))


def _next_scale(rounds: Sequence[_Round], wanted: float) -> float:
    """What to multiply the times of layers by, from what was measured of the model so far.

    Where some choices saved less than is wanted and others more, what is to be saved alone is interpolated between the
    nearest two; else it is in proportion to that of the last.
    """
    less = [one for one in rounds if one.saved < wanted]
    more = [one for one in rounds if one.saved >= wanted]
    if less and more:
        low, high = max(less, key=lambda one: one.saved), min(more, key=lambda one: one.saved)
        between = (wanted - low.saved) / (high.saved - low.saved)
        alone = low.saved_alone + between * (high.saved_alone - low.saved_alone)
    else:
        alone = rounds[-1].saved_alone * wanted / rounds[-1].saved
    return wanted / alone


def _rescaled(weight: Weight, scale: float) -> Weight:
    return weight if weight.latency is None else dataclasses.replace(weight, latency=weight.latency.scaled(scale))


def _put_back(last: _Round, measure: Measure) -> list[_Round]:
    """Of a choice that was not faster, those with layers put back until one is: each time the half that saves least."""
    saved = last.problem.saved(last.solution)
    split = sorted((index for index, option in enumerate(last.solution) if option), key=lambda index: -saved[index])
    tried: list[_Round] = []
    while len(split) > 1 and not (tried and tried[-1].measured.faster):
        split = split[: len(split) // 2]
        solution = [option if index in split else 0 for index, option in enumerate(last.solution)]
        tried.append(_Round(last.problem, solution, measure(last.problem.splits(solution)), last.scale))
    return tried


def _nothing(budget: Budget, weights: Sequence[Weight], why: str) -> Chosen:
    warn_user(f"budget: {budget}: nothing is decomposed, as it does not pay: {why}")
    reason = "decomposing it does not pay on this device"
    return Chosen((reason,) * len(weights), f"Budget {budget}: nothing is decomposed, as {why}.", 1.0, 0.0)
