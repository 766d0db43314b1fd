"""The cheapest plan whose accuracy, as the user measures it, is good enough."""

from __future__ import annotations

import datetime
import functools
import itertools
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..._run.isolation import untouched_generators
from ..._run.process_group import joined_processes
from ..._run.progress import ProgressFunction, reporting
from ..._run.reuse import Reuse
from ..api import planned
from ..calibration.data import Calibration
from ..config import DecompositionConfig
from ..model.layers import survey
from ..plan.plan import DecompositionPlan
from ..ranks.budget import Budget
from .identity import identity_of, state_of
from .journal import opened
from .result import Cost, SearchResult
from .run import Limits, Search
from .scoring import Evaluate, score_of
from .settings import check_goal, check_limits, check_plans

# Bytes of what all plans of a search have in common: as much as the moments of a calibration may take by default.
_MEMORY = 2 * 2**30


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
    plan is accepted by its own score alone, and when the bisection has come to an end, budgets just below the first
    one rejected are tried. All plans are chosen by the same samples, so the score of the one chosen is slightly too
    good: measure it once more on samples that the search has not seen.

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
        can be gone through several times. What does not depend on the budget is computed once for all plans, as long as
        the model stays as it is: what its layers see and answer, spectra, and times of layers.
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
    limits = Limits(drop, samples, evaluations, math.inf if minutes is None else time.monotonic() + 60 * minutes)
    devices = [tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())]
    with (
        untouched_generators(devices),
        joined_processes(distributed) as processes,
        reporting(progress, "search") as report,
    ):
        path = journal if processes.index == 0 else None
        # Processes of a group would have to agree on what each of them has kept.
        reuse = Reuse(_MEMORY if processes.size == 1 else 0)

        def plan_for(budget: Budget, data: Calibration | None) -> DecompositionPlan:
            reuse.only_for(state_of(model))
            return planned(model, config, budget, data, example_inputs, False, distributed, reuse)

        about = {} if path is None else identity_of(found, minimise, config, calibration, example_inputs, timing)
        with opened(path, about) as log:
            search = Search(
                lambda share: plan_for(budget_of(minimise, share, timing), calibration),
                functools.partial(score_of, model, evaluate),
                minimise,
                limits,
                log,
                processes,
                report,
            )
            search.run()
            # Where nothing cheaper will do, the budget that needs no split, and no data.
            plan = search.chosen_plan() or plan_for(Budget(parameters=1.0), None)
    return search.result(plan)


def budget_of(minimise: Cost, share: float, timing: Mapping[str, Any]) -> Budget:
    """The budget of a share of what the original takes, with those settings of its measurement that are given."""
    given = {name: value for name, value in timing.items() if value is not None and value is not False}
    return Budget(**{minimise: share, **given})
