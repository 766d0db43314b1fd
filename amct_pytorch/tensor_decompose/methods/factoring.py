"""Spectra, ranks and plain splits of all weights of a model, in this order, shared out over threads and processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..._run.process_group import ProcessGroup
from ..._run.progress import ProgressFunction
from ..._run.workers import run_all
from ..ranks.choose import Choice, RankRequest, choose_each_alone, rounding_decides
from ..ranks.spectrum import Spectrum
from .linalg import exact_matmul
from .weight_group import Factors, WeightGroup

# Side of the Gram matrix from which a layer is computed with nothing beside it: it works in over 0.2 GB.
_ALONE_FROM = 4096

Result = TypeVar("Result")


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
    """

    def __init__(self, groups: Sequence[WeightGroup], report: ProgressFunction, processes: ProcessGroup) -> None:
        self.groups = groups
        self._report, self._processes = report, processes
        self._requests: list[RankRequest] = [group.request for group in groups]
        self._costs = [group.cost for group in groups]
        self._own = set(processes.mine(self._costs))
        self._spectra: dict[int, Spectrum] = {}
        self.choices: dict[int, Choice] = {}
        """By number of the group, the ranks that are chosen so far."""
        self.plain: dict[int, Factors] = {}
        """By number of the group, the splits of the weights alone, at the ranks chosen so far."""

    @property
    def undecided(self) -> list[int]:
        """Groups whose ranks are not chosen yet."""
        return [index for index in range(len(self.groups)) if index not in self.choices]

    @property
    def wanted(self) -> list[int]:
        """Groups whose split at the ranks chosen is wanted."""
        return [index for index, choice in sorted(self.choices.items()) if self.groups[index].gains(choice.ranks)]

    def look_at_weights(self, report: ProgressFunction | None = None) -> None:
        """Compute the spectrum of every weight."""
        every = range(len(self.groups))
        self._spectra = self._spectra_of(lambda index: self.groups[index].spectrum(), every, report or silent)

    def choose_by_weights(self, which: Sequence[int]) -> None:
        """Choose the ranks of these groups from the spectra of their weights, then split them."""
        self._choose(which, self._spectra)
        # Where rounding in float32 may have turned a choice, or blurs what it keeps, it is made again in float64.
        doubtful = [
            index
            for index in which
            if rounding_decides(self._requests[index], self._spectra[index], self.choices[index])
        ]
        self._look_exactly_at(doubtful)
        self._choose(doubtful, self._spectra)
        self._split(which)

    def choose_by_data(self, spectrum_on_data: Callable[[int], Spectrum]) -> None:
        """Choose the ranks that are undecided from spectra of the weights seen through data, then split the weights.

        Parameters
        ----------
        spectrum_on_data
            Gives the spectrum of the group of a number.
        """
        which = self.undecided
        self._choose(which, self.share_out(spectrum_on_data, which, silent))
        self._look_exactly_at([index for index in which if self._spectra[index].blurs(self.choices[index].ranks)])
        self._split(which)

    def requests_by(self, *, ignoring_calibration: bool) -> list[int]:
        """Groups whose ranks do not depend on calibration data, or those whose ranks do."""
        return [
            index for index, request in enumerate(self._requests) if request.ignores_calibration == ignoring_calibration
        ]

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

    def _choose(self, which: Sequence[int], spectra: dict[int, Spectrum]) -> None:
        chosen = choose_each_alone([self._requests[index] for index in which], [spectra[index] for index in which])
        self.choices.update(zip(which, chosen, strict=True))

    def _look_exactly_at(self, which: Sequence[int]) -> None:
        self._spectra.update(self._spectra_of(lambda index: self.groups[index].spectrum(exact=True), which, silent))

    def _spectra_of(
        self, function: Callable[[int], Spectrum], which: Sequence[int], report: ProgressFunction
    ) -> dict[int, Spectrum]:
        """Spectra by number of the group; singular vectors stay in the process that has computed them."""
        own: dict[int, Spectrum] = {}

        def without_vectors(index: int) -> Spectrum:
            own[index] = function(index)
            return own[index].keeping([0] * len(own[index].unfoldings))

        return {**self.share_out(without_vectors, which, report), **own}

    def _split(self, which: Sequence[int]) -> None:
        """Split the weights whose split is wanted; spectra and singular vectors go as they are used."""

        def factors(index: int) -> Factors:
            return self.groups[index].factors(self.choices[index].ranks, self._spectra.pop(index))

        wanted = [index for index in which if self.groups[index].gains(self.choices[index].ranks)]
        self.plain.update(self.share_out(factors, wanted, silent))
        for index in which:
            self._spectra.pop(index, None)
