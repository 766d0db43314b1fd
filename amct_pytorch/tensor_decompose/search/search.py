"""The cheapest plan whose accuracy, as the user measures it, is good enough."""

from __future__ import annotations

import datetime
import functools
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ..._run.isolation import untouched_generators
from ..._run.process_group import ProcessGroup, joined_processes
from ..._run.progress import ProgressFunction, reporting
from ...errors import BudgetError, ConfigError, warn_user
from ..api import plan_decomposition
from ..calibration.data import Calibration
from ..config import DecompositionConfig
from ..model.layers import survey
from ..plan.plan import DecompositionPlan
from ..ranks.budget import Budget
from .bisection import LEAST, Tried, next_share
from .identity import identity_of
from .journal import Journal, Record, opened
from .noise import score_range, standard_error_of_difference
from .result import Cost, Evaluation, SearchResult
from .scoring import Evaluate, mark_of, score_of
from .settings import check_goal, check_limits, check_plans

_LOGGER = logging.getLogger("amct_pytorch")


def search_decomposition(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    drop: float,
    minimise: Cost = "macs",
    config: DecompositionConfig | None = None,
    calibration: Calibration | None = None,
    example_inputs: object = None,
    samples: int | None = None,
    minutes: float | None = None,
    evaluations: int = 10,
    journal: str | os.PathLike[str] | None = None,
    backend: Any = None,
    index: int | None = None,
    dtype: torch.dtype | None = None,
    compiled: bool = False,
    progress: bool | ProgressFunction = False,
    distributed: bool | datetime.timedelta = True,
) -> SearchResult:
    """Search for the cheapest plan whose score is within a drop of the original's.

    A score is what the user's function returns for a model. The budget is bisected on a logarithmic scale: by costs,
    since how much a score falls for a given damage is not known before it is measured, and on a logarithmic scale, as
    it finds 5 % of the MACs to the same relative precision as 50 %. Scores need not fall strictly with the budget: a
    plan is accepted by its own score alone, and where evaluations are left when the bisection has come to an end,
    budgets below those rejected are tried. All plans are chosen by the same samples, so the score of the one chosen is
    slightly too good: measure it once more on samples that the search has not seen.

    Parameters
    ----------
    model
        A model with pretrained weights. It is not changed; each plan is tried on a copy, one at a time.
    evaluate
        Called with a copy of the model on the same device, as it is and then decomposed, in eval mode; returns the
        score, a finite number, the higher the better. What it does to the copy, and what it draws from random
        generators, has no effect; these are in the same state before each call. A journal cannot know whether it is
        the same function: give a new one when you change it.
    drop
        How much lower than the original's the score may be, in the units of the score; 0 or more.
    minimise
        What is to be least: "macs", "parameters", or "latency". MACs and latency need ``example_inputs``.
    config, calibration, example_inputs
        See `plan_decomposition`. The config must not give ranks, and the calibration batches must be such that they
        can be gone through several times.
    samples
        Number of samples that a score is the mean over, where it is a share of samples that are right, from 0 to 1 or
        in percent (an original's score above 1 is in percent). The result then has the standard error of the
        difference, and says so, with a warning, where the drop allowed is below it.
    minutes
        Time limit: no evaluation begins that would probably end after it, as long as the longest one before it.
    evaluations
        How often ``evaluate`` is called at most, the original and the calls in the journal included.
    journal
        Path of a file to which every evaluation is written when it is done. If it exists, the evaluations in it are
        not repeated: a search that was interrupted goes on where it was. ``drop``, ``samples``, ``minutes`` and
        ``evaluations`` may be others than before. The cheapest plan so far is beside it, in a file with ".plan" added
        to its name.
    backend, index, dtype, compiled
        For the latency: where and how it is measured, see `Budget`.
    progress
        True draws a bar; a function is called with (evaluations done, at most, the budget evaluated last).
    distributed
        See `plan_decomposition`. Every process calls ``evaluate``; the score in the first one counts, which alone
        writes the journal.

    Returns
    -------
    SearchResult
        Its plan keeps every layer where nothing cheaper is within the drop; a warning says so.

    Raises
    ------
    InputsError
        ``evaluate`` raises an exception, which is the cause of this one.
    ConfigError, ConfigTypeError
        A setting is wrong, ``evaluate`` returns no number or one that is not finite, or no layer can be decomposed.
    JournalError, JournalAccessError
        The journal is damaged, of another model or other settings, or cannot be written.
    ModelError
        The model cannot be copied.
    AmctError
        Another one, from planning. After any error the model and the random generators are as they were, and the
        journal has all evaluations that were complete.
    """
    check_goal(evaluate, drop, minimise, example_inputs)
    check_plans(config, calibration)
    check_limits(samples, minutes, evaluations)
    timing = {"backend": backend, "index": index, "dtype": dtype, "compiled": compiled}
    budget_of(minimise, 0.5, timing)
    found = survey(model)
    limits = _Limits(drop, samples, evaluations, math.inf if minutes is None else time.monotonic() + 60 * minutes)
    planned = functools.partial(
        plan_decomposition, model, config, example_inputs=example_inputs, distributed=distributed
    )
    devices = [tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())]
    with (
        untouched_generators(devices),
        joined_processes(distributed) as processes,
        reporting(progress, "search") as report,
    ):
        path = journal if processes.index == 0 else None
        about = {} if path is None else identity_of(found, minimise, config, calibration, example_inputs, timing)
        with opened(path, about) as log:
            search = _Search(
                lambda share: planned(budget=budget_of(minimise, share, timing), calibration=calibration),
                functools.partial(score_of, model, evaluate),
                minimise,
                limits,
                log,
                processes,
                report,
            )
            search.run()
            # Where nothing cheaper will do, the budget that needs no split, and no data.
            plan = search.chosen_plan() or planned(budget=Budget(parameters=1.0))
    return search.result(plan)


def budget_of(minimise: Cost, share: float, timing: Mapping[str, Any]) -> Budget:
    """The budget of a share of what the original takes, with those settings of its measurement that are given."""
    given = {name: value for name, value in timing.items() if value is not None and value is not False}
    return Budget(**{minimise: share, **given})


def cost_of(plan: DecompositionPlan, minimise: Cost) -> float:
    """What a plan takes, as a share of what the original takes."""
    if minimise == "latency":
        proof = getattr(plan, "latency", None)
        return 1.0 if proof is None else float(proof.measured)
    before, after = plan.parameters, plan.parameters_after
    if minimise == "macs":
        before, after = (
            sum(count or 0 for count in counts)
            for counts in zip(*((layer.macs, layer.macs_after) for layer in plan.layers), strict=True)
        )
    return after / before if before else 1.0


class _Limits(NamedTuple):
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


class _Search:
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
        limits: _Limits,
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
