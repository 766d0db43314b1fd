"""Spectra, ranks and plain splits of all weights of a model, in this order, shared out over threads and processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from ..._run.process_group import ProcessGroup
from ..._run.progress import ProgressFunction
from ..._run.reuse import Reuse
from ..._run.workers import run_all
from ..ranks.choose import Choice, RankRequest, choose_each_alone, rounding_decides
from ..ranks.error_curve import PROPORTIONAL, ErrorCurve
from ..ranks.spectrum import Spectrum
from .budget_choice import BudgetChoice
from .candidates import chosen_at_equal_cost, ranks_to_try
from .latencies import LatencyProof
from .linalg import exact_matmul
from .weight_group import Factors, WeightGroup
from .within_budget import OnData, Weight

# Side of the Gram matrix from which a layer is computed with nothing beside it: it works in over 0.2 GB.
_ALONE_FROM = 4096

# Relative errors of a weight at which is measured what it does to the outputs: those that budgets mostly lead to.
_PROBED_ERRORS = (0.25, 0.6)

Spectra = dict[str, Spectrum]
"""The spectra of a weight by the names of the methods that may split it."""

Result = TypeVar("Result")

NEVER_RAN = "it never ran on the calibration batches"
"""Why a layer is kept that no data have reached."""


def silent(done: int, total: int, name: str) -> None:
    """ProgressFunction nothing."""


class Factoring:
    """The factoring of all weights of a model.

    Every process of a group calls the same methods in the same order, and gets the same results.

    Parameters
    ----------
    groups
        The weights.
    report
        Called with (done, total, layer name) as work that is reported proceeds.
    processes
        Those that share the work.
    choice
        For a budget, chooses the splits of all weights together; None where each has its own ranks.
    reuse
        What other plans of the model have found out.
    """

    def __init__(
        self,
        groups: Sequence[WeightGroup],
        report: ProgressFunction,
        processes: ProcessGroup,
        choice: BudgetChoice | None,
        reuse: Reuse,
    ) -> None:
        self.reuse = reuse
        self._report, self._processes, self._choice = report, processes, choice
        self.summary = ""
        """What was chosen for a budget, in words."""
        self.proof: LatencyProof | None = None
        """For a budget of latency, what was measured of what was chosen."""
        self._by_method = [group.by_method for group in groups]
        self.groups = [
            group if len(alternatives) > 1 else next(iter(alternatives.values()))
            for group, alternatives in zip(groups, self._by_method, strict=True)
        ]
        """The weights; their settings name the method, once it is chosen where there are several."""
        # Ranks are chosen for the first method that may split a weight; others are taken at its cost.
        self._first = [next(iter(alternatives)) for alternatives in self._by_method]
        self._requests: list[RankRequest] = [
            alternatives[first].request for alternatives, first in zip(self._by_method, self._first, strict=True)
        ]
        self._costs = [sum(one.cost for one in alternatives.values()) for alternatives in self._by_method]
        if choice is not None:
            choice.time_layers(self._by_method, report, reuse)
        self._own = set(processes.mine(self._costs))
        self._spectra: dict[int, Spectra] = {}
        self.choices: dict[int, Choice] = {}
        """By number of the group, the ranks that are chosen so far."""
        self.kept: dict[int, str] = {}
        """By number of the group, why it is not split within the budget, in words."""
        self.plain: dict[int, Factors] = {}
        """By number of the group, the splits of the weights alone, at the ranks chosen so far."""

    @property
    def undecided(self) -> list[int]:
        """Groups whose ranks are not chosen yet."""
        return [index for index in range(len(self.groups)) if index not in self.choices and index not in self.kept]

    @property
    def wanted(self) -> list[int]:
        """Groups whose split at the ranks chosen is wanted."""
        return [index for index, choice in sorted(self.choices.items()) if self.groups[index].gains(choice.ranks)]

    def look_at_weights(self, report: ProgressFunction | None = None) -> None:
        """Compute the spectra of every weight."""
        found = self.reuse.once("spectra", lambda: self._spectra_of(range(len(self.groups)), report or silent))
        self._spectra = dict(found)  # they go as they are used

    def choose_by_weights(self, which: Sequence[int]) -> None:
        """Choose the ranks of these groups from the spectra of their weights, then split them."""
        if self._choice is not None:
            self._choose_together(
                which, {index: Weight(self._by_method[index], self._spectra[index]) for index in which}
            )
            return
        first = self._choose(which, self._spectra, self._spectra)
        # Where rounding in float32 may have turned a choice, or blurs what it keeps, it is made again in float64.
        doubtful = [
            index
            for index in which
            if rounding_decides(self._requests[index], self._spectra[index][self._first[index]], first[index])
            or self._blurs(index)
        ]
        self._look_exactly_at(doubtful)
        self._choose(doubtful, self._spectra, self._spectra)
        self._split(which)

    def choose_before_data(self, too_large: Sequence[int]) -> None:
        """Choose what depends on no data, and what there is no memory for to choose by data.

        Parameters
        ----------
        too_large
            Groups for whose moments of whole patches there is no memory, which a choice among methods takes.
        """
        if self._choice is None:
            self.choose_by_weights([*self._chosen_by_weights, *too_large])
        else:
            for index in too_large:
                self._by_method[index] = {self._first[index]: self._by_method[index][self._first[index]]}
                self.groups[index] = self._by_method[index][self._first[index]]

    def choose_without_data(self, which: Sequence[int]) -> None:
        """Choose for groups that no data have reached; such a layer is kept in any case."""
        if self._choice is None:
            self.choose_by_weights(which)
        else:
            self.kept.update(dict.fromkeys(which, NEVER_RAN))

    def choose_by_data(
        self,
        seen_through_data: Callable[[int, Mapping[str, WeightGroup]], Mapping[str, OnData]],
        influences: Callable[[], Mapping[int, ErrorCurve]],
        added_biases: Mapping[int, int],
    ) -> None:
        """Choose what is undecided from spectra of the weights seen through data, then split the weights.

        Parameters
        ----------
        seen_through_data
            Gives what is to be expected of the group of a number, by each method that may split it.
        influences
            Gives by number of the group how far errors of its response move the outputs; called for a budget only.
        added_biases
            By number of the group, how many of its layers get a bias that they have not, for a budget.
        """
        which = self.undecided

        def expected() -> dict[int, Mapping[str, OnData]]:
            return self.share_out(lambda index: seen_through_data(index, self._by_method[index]), which, silent)

        if self._choice is not None:

            def weights() -> dict[int, Weight]:
                moving = influences()
                return {
                    index: Weight(
                        self._by_method[index],
                        {name: one.spectrum for name, one in found.items()},
                        moving.get(index, PROPORTIONAL),
                        added_biases[index],
                        after_fit={name: one.after_fit for name, one in found.items()},
                    )
                    for index, found in expected().items()
                }

            self._choose_together(which, self.reuse.once("weights seen through data", weights))
            return
        seen = {index: {name: one.spectrum for name, one in found.items()} for index, found in expected().items()}
        asked = {
            index: self._spectra[index] if self._requests[index].ignores_calibration else seen[index] for index in which
        }
        self._choose(which, asked, seen)
        self._look_exactly_at([index for index in which if self._blurs(index)])
        self._split(which)

    @property
    def _chosen_by_weights(self) -> list[int]:
        """Groups for which nothing depends on calibration data: not their ranks, and there is but one method."""
        return [
            index
            for index, request in enumerate(self._requests)
            if request.ignores_calibration and len(self._by_method[index]) == 1
        ]

    @property
    def open_methods(self) -> list[int]:
        """Groups that one of several methods is still to be chosen for."""
        return [index for index in self.undecided if len(self._by_method[index]) > 1]

    @property
    def has_budget(self) -> bool:
        """Whether the splits of all weights are chosen together."""
        return self._choice is not None

    def probes(self) -> dict[int, tuple[WeightGroup, Factors, Factors]]:
        """By number of the group, for those undecided, two plain splits by one method: of a small and a large error."""

        def split(index: int) -> tuple[Factors, Factors] | None:
            name = self._first[index]
            group, spectrum = self._by_method[index][name], self._spectra[index][name]
            tried = [ranks for ranks in ranks_to_try(group) if group.gains(ranks)]
            if not tried:
                return None
            small, large = (
                min(tried, key=lambda ranks: abs(spectrum.error(ranks) - error)) for error in _PROBED_ERRORS
            )
            return group.factors(small, spectrum), group.factors(large, spectrum)

        found = self.share_out(split, self.undecided, silent)
        return {
            index: (self._by_method[index][self._first[index]], *factors)
            for index, factors in sorted(found.items())
            if factors is not None
        }

    def share_out(
        self, function: Callable[[int], Result], which: Sequence[int], report: ProgressFunction | None = None
    ) -> dict[int, Result]:
        """What a function that spends its time in linear algebra gives for each of these groups, on every process.

        Parameters
        ----------
        function
            Called with the number of a group, several at a time.
        which
            Numbers of the groups.
        report
            Called instead of the report given for all the work.
        """
        announce = self._report if report is None else report
        own = [index for index in which if index in self._own]
        finished = len(which) - len(own)

        def done(position: int) -> None:
            nonlocal finished
            finished += 1
            announce(finished, len(which), self.groups[own[position]].name)

        def computed(index: int) -> Result:
            # Grad and inference mode belong to a thread, and this may run in a worker.
            with torch.inference_mode(False), torch.no_grad():
                return function(index)

        costs = [self._costs[index] for index in own]
        with exact_matmul():
            results = run_all(computed, own, costs=costs, alone_above=float(_ALONE_FROM**3), done=done)
        found: dict[int, Result] = {}
        for shared in self._processes.gather(dict(zip(own, results, strict=True))):
            found.update(shared)
        return found

    def _choose(
        self, which: Sequence[int], asked: Mapping[int, Spectra], compared: Mapping[int, Spectra]
    ) -> dict[int, Choice]:
        """Choose ranks of the first methods from some spectra, and then among the methods by others.

        Returns
        -------
        dict
            The ranks of the first methods.
        """
        chosen = choose_each_alone(
            [self._requests[index] for index in which], [asked[index][self._first[index]] for index in which]
        )
        first = dict(zip(which, chosen, strict=True))
        for index in which:
            method, self.choices[index] = chosen_at_equal_cost(self._by_method[index], compared[index], first[index])
            self.groups[index] = self._by_method[index][method]
        return first

    def _choose_together(self, which: Sequence[int], weights: Mapping[int, Weight]) -> None:
        """Choose method and ranks of these groups, or to keep them, within the budget, then split them."""
        assert self._choice is not None, "there is a budget"
        chosen = self._choice.among(weights)
        self.summary, self.proof = chosen.summary, chosen.proof
        for index, found in zip(which, chosen.verdicts, strict=True):
            if isinstance(found, str):
                self.kept[index] = found
            else:
                method, self.choices[index] = found
                self.groups[index] = self._by_method[index][method]
        split = [index for index in which if index in self.choices]
        self._look_exactly_at([index for index in split if self._blurs(index)])
        self._split(split)

    def _spectrum_of_chosen(self, index: int) -> Spectrum:
        return self._spectra[index][self.groups[index].method.name]

    def _blurs(self, index: int) -> bool:
        return self._spectrum_of_chosen(index).blurs(self.choices[index].ranks)

    def _look_exactly_at(self, which: Sequence[int]) -> None:
        self._spectra.update(self._spectra_of(which, silent, exact=True))

    def _spectra_of(self, which: Sequence[int], report: ProgressFunction, *, exact: bool = False) -> dict[int, Spectra]:
        """Spectra by number of the group; singular vectors stay in the process that has computed them."""
        own: dict[int, Spectra] = {}

        def without_vectors(index: int) -> Spectra:
            own[index] = {name: group.spectrum(exact=exact) for name, group in self._by_method[index].items()}
            return {name: spectrum.keeping([0] * len(spectrum.unfoldings)) for name, spectrum in own[index].items()}

        return {**self.share_out(without_vectors, which, report), **own}

    def _split(self, which: Sequence[int]) -> None:
        """Split the weights whose split is wanted; spectra and singular vectors go as they are used."""

        def factors(index: int) -> Factors:
            spectrum = self._spectrum_of_chosen(index)
            del self._spectra[index]
            return self.groups[index].factors(self.choices[index].ranks, spectrum)

        wanted = [index for index in which if self.groups[index].gains(self.choices[index].ranks)]
        self.plain.update(self.share_out(factors, wanted, silent))
        for index in which:
            self._spectra.pop(index, None)
