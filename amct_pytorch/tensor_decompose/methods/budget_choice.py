"""The choice among the splits of all weights of a model, for a budget of any kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ..._run.process_group import ProcessGroup
from ..._run.progress import ProgressFunction
from ..._run.reuse import Reuse
from ...errors import ConfigError
from ..ranks.budget import Budget
from .candidates import Candidate
from .latencies import Latencies, Measured, Stopwatch
from .weight_group import WeightGroup
from .within_budget import Chosen, ModelCost, Weight, chosen_within
from .within_latency import chosen_within_latency


class BudgetChoice:
    """Chooses within a budget; every process of a group chooses alike.

    Parameters
    ----------
    budget
        Of the whole model.
    before
        What the model takes, but for its latency.
    processes
        Those that choose together.
    stopwatch
        Times the model and its layers, for a budget of latency. That of the first process counts.

    Raises
    ------
    ConfigError
        The budget is one of MACs, and the layers have none.
    """

    def __init__(
        self, budget: Budget, before: ModelCost, processes: ProcessGroup, stopwatch: Stopwatch | None = None
    ) -> None:
        if budget.macs is not None and before.macs == 0:
            raise ConfigError(
                f"budget: {budget} cannot be met: on the example inputs no layer computes anything, so there are no "
                "MACs to save: give inputs with samples, which reach the layers; a layer whose weight alone is read, "
                "by a function, is never split"
            )
        self._budget, self._before, self._processes = budget, before, processes
        self._stopwatch, self._latencies = stopwatch, Latencies(0, (), "")

    def time_layers(self, weights: Sequence[Mapping[str, WeightGroup]], report: ProgressFunction, reuse: Reuse) -> None:
        """Time the splits of all weights, where the budget is one of latency; see `Stopwatch.time_layers`."""
        if (stopwatch := self._stopwatch) is not None:
            self._latencies = reuse.once(
                "latencies", lambda: self._processes.from_first(lambda: stopwatch.time_layers(weights, report))
            )

    def among(self, weights: Mapping[int, Weight]) -> Chosen:
        """The choice for these weights, which have the numbers that they were timed by; see `chosen_within`."""
        if (stopwatch := self._stopwatch) is None:
            return chosen_within(self._budget, self._before, list(weights.values()))
        layers = self._latencies.layers
        timed = [dataclasses.replace(weight, latency=layers[number]) for number, weight in weights.items()]

        def measure(candidates: Sequence[Candidate | None]) -> Measured:
            splits = [
                (weight.by_method[one.method], one.ranks)
                for weight, one in zip(timed, candidates, strict=True)
                if one is not None
            ]
            return self._processes.from_first(lambda: stopwatch.time_model(splits))

        before = dataclasses.replace(self._before, latency=self._latencies.model)
        return chosen_within_latency(self._budget, before, timed, measure, self._latencies.device)
