"""The course of a search: what is planned and evaluated next, until nothing is left or a limit is reached."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from ..._run.process_group import ProcessGroup
from ..._run.progress import ProgressFunction
from ...errors import BudgetError, ConfigError, warn_user
from ..plan.plan import DecompositionPlan
from .bisection import LEAST, Tried, next_share
from .journal import Journal, Record
from .noise import score_range, standard_error_of_difference
from .result import Cost, Evaluation, SearchResult
from .scoring import mark_of

# Scores that different models may well have in common: all samples wrong, or all right, as a share or in percent.
_NONE_OR_ALL_RIGHT = frozenset([0.0, 1.0, 100.0])
_LOGGER = logging.getLogger("amct_pytorch")


def cost_of(plan: DecompositionPlan, minimise: Cost) -> float:
    """What a plan takes, as a share of what the original takes."""
    if minimise == "latency":
        return 1.0 if plan.latency is None else plan.latency.measured
    before, after = plan.parameters, plan.parameters_after
    if minimise == "macs":
        before, after = (
            sum(count or 0 for count in counts)
            for counts in zip(*((layer.macs, layer.macs_after) for layer in plan.layers), strict=True)
        )
    return after / before if before else 1.0


class Limits(NamedTuple):
    """How far the score may fall, of how many samples it is the mean, and how much may be evaluated until when."""

    drop: float
    samples: int | None
    evaluations: int
    deadline: float


class _Candidate(NamedTuple):
    """A plan to evaluate, and how long it took to make; None for the original."""

    share: float
    plan: DecompositionPlan | None
    seconds: float


class Search:
    """A search under way.

    Parameters
    ----------
    planned
        The plan for a budget, by its share.
    scored
        The score of a plan, and what it is called in messages.
    minimise, limits
        What is searched for.
    journal
        Has what earlier runs evaluated.
    processes
        Those that search together.
    report
        Called after each evaluation.
    """

    def __init__(
        self,
        planned: Callable[[float], DecompositionPlan],
        scored: Callable[[DecompositionPlan | None, str], float],
        minimise: Cost,
        limits: Limits,
        journal: Journal,
        processes: ProcessGroup,
        report: ProgressFunction,
    ) -> None:
        self._planned, self._scored = planned, scored
        self._minimise, self._limits = minimise, limits
        self._journal, self._processes, self._report = journal, processes, report
        self._records = list(processes.from_first(lambda: journal.earlier))
        self._earlier = len(self._records)
        self._least = LEAST
        self._best: DecompositionPlan | None = None
        self._stopped = ""
        self._standard_error: float | None = None

    def run(self) -> None:
        """Evaluate until nothing is left to try, or a limit is reached."""
        # Planned before the original is evaluated: what is wrong with the settings is found in planning.
        candidate = self._next()
        if not self._records:
            self._evaluate(_Candidate(1.0, None, 0.0))
            if self._is_over():
                candidate = None
        self._allow_for_noise()
        while candidate is not None:
            self._evaluate(candidate)
            candidate = self._next()

    def chosen_plan(self) -> DecompositionPlan | None:
        """The cheapest plan accepted; None where that is the original."""
        chosen = self._chosen
        if chosen.plan == mark_of(()):
            return None
        plan = self._best or self._processes.from_first(self._journal.best)
        if plan is None or mark_of(plan.layers) != chosen.plan:
            plan = self._planned(chosen.share)
        if mark_of(plan.layers) != chosen.plan:
            warn_user(
                f"the plan for {self._name(chosen.share)} is not to the last bit the one that the journal has the "
                "score of, perhaps as the calibration batches, the number of threads, or versions differ: evaluate it "
                "once more, or search anew with another journal"
            )
        return plan

    def result(self, plan: DecompositionPlan) -> SearchResult:
        """What was found, with this plan."""
        evaluations = tuple(
            Evaluation(one.share, one.cost, one.score, self._accepts(one), one.seconds, number < self._earlier)
            for number, one in enumerate(self._records)
        )
        scores = {one.score for one in self._records}
        if self._done > 1 and len(scores) == 1 and not scores <= _NONE_OR_ALL_RIGHT:
            warn_user(
                f"every plan has exactly the score of the original, {self._records[0].score:g}: make sure that "
                "evaluate scores the model that it is given, and no other"
            )
        found = SearchResult(plan, self._minimise, self._limits.drop, evaluations, self._stopped, self._standard_error)
        if found.chosen is found.original:
            warn_user(
                f"no plan within drop={self._limits.drop:g} was found in {len(evaluations)} "
                f"evaluation{'s' * (len(evaluations) > 1)}: the plan keeps every layer"
            )
        return found

    @property
    def _done(self) -> int:
        """How many evaluations there were: budgets that led to the same plan took one."""
        return len({one.plan for one in self._records})

    @property
    def _chosen(self) -> Record:
        return min(filter(self._accepts, self._records), key=lambda one: one.cost)

    @property
    def _tried(self) -> list[Tried]:
        return [Tried(one.share, one.cost, self._accepts(one)) for one in self._records[1:]]

    def _accepts(self, one: Record) -> bool:
        lost = self._records[0].score - one.score
        # The difference of two decimal fractions is rounded: 0.8 - 0.7 is more than 0.1.
        return lost <= self._limits.drop or math.isclose(lost, self._limits.drop, rel_tol=1e-9)

    def _next(self) -> _Candidate | None:
        """The next plan to evaluate; None where nothing is left to try, or a limit is reached.

        Raises
        ------
        ConfigError
            Nothing can be made cheaper.
        """
        while (share := next_share(self._tried, self._least)) is not None and not self._is_over():
            began = time.monotonic()
            try:
                plan = self._planned(share)
            except BudgetError as error:
                self._least = max(error.least, share)
                if next_share((), self._least) is None:
                    raise
                continue
            if not plan.layers:
                raise ConfigError(f"there is nothing to search for: {plan.why_empty}")
            return _Candidate(share, plan, time.monotonic() - began)
        return None

    def _is_over(self) -> bool:
        """Whether a limit is reached."""
        if self._done >= self._limits.evaluations:
            return True
        longest = max((one.seconds for one in self._records[1:] or self._records), default=0.0)
        late = self._processes.from_first(lambda: time.monotonic() + longest > self._limits.deadline)
        if late:
            self._stopped = f"after {self._done} of {self._limits.evaluations} evaluations, as the time limit was near"
        return late

    def _evaluate(self, candidate: _Candidate) -> None:
        """Evaluate a plan, or the original, and write down what was found."""
        share, plan, seconds = candidate
        began = time.monotonic()
        layers = () if plan is None else plan.layers
        mark, cost = mark_of(layers), 1.0 if plan is None else cost_of(plan, self._minimise)
        score = next((one.score for one in self._records if one.plan == mark), None)
        if score is None:
            score = self._scored(plan, f"the model {'as it is' if plan is None else f'at {self._name(share)}'}")
        # What the first process found counts: in others it may differ in the last bits.
        record = self._processes.gather(Record(share, cost, score, seconds + time.monotonic() - began, mark))[0]
        self._records.append(record)
        is_best = self._chosen is record
        if is_best:
            self._best = plan
        self._journal.add(record, plan if is_best else None)
        _LOGGER.info("search: %s takes %.1f%%, score %g", self._name(share), 100 * cost, record.score)
        self._report(self._done, self._limits.evaluations, self._name(share))

    def _allow_for_noise(self) -> None:
        """Find the standard error of a difference, and warn where the drop is below it."""
        drop, samples = self._limits.drop, self._limits.samples
        if samples is None:
            return
        original = self._records[0].score
        error = standard_error_of_difference(original, original - drop, samples, score_range(original))
        self._standard_error = error
        if drop < error:
            warn_user(
                f"drop={drop:g} is below the standard error of the difference of two scores on {samples} samples, "
                f"{error:.2g} at most: which plan is chosen is partly chance: give more samples, or allow more"
            )

    def _name(self, share: float) -> str:
        return f"{self._minimise}={share:g}"
