"""Fit the layers of a model to calibration data, in one pass or layer after layer. The model stays as it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from ..._run.intercept import Forward, acting
from ..._run.process_group import ProcessGroup
from ..._run.progress import ProgressFunction
from ..._run.tensors import is_finite
from ...errors import LayerError, quoted
from ..methods.factoring import Factoring
from ..methods.linalg import exact_matmul
from ..methods.weight_group import WeightGroup
from ..methods.within_budget import OnData
from ..model.spec import LayerSpec
from .affordable import affordable_modes, unaffordable
from .biases import bias_of, correctable_biases
from .data import mode_of_layers
from .expected_errors import seen_through_data
from .few_data import warn_of_few_data, warn_of_repeats
from .layer_fit import Fitted, fit
from .moments import MomentSums
from .positions import positions_that_fit
from .probes import influences
from .recorder import LayerRecorder
from .refine import refine
from .rescale import rescale
from .runs import EndOfRun, Runs
from .stage_kernels import first_stage_offsets
from .trial_chains import chains_for

# Of an iterable that does not say its length: a usual number of batches.
_USUAL_BATCHES = 8
# What a plan says of a layer that no batch reaches.
_IDLE = "the calibration batches never reach it"
# What the recording is kept by for further plans.
_RECORDING = "recording"

Recorders = dict[int, list[LayerRecorder]]
"""By number of the weight group, a recorder for each of its layers."""


def fit_to_data(
    runs: Runs, factoring: Factoring, report: ProgressFunction, processes: ProcessGroup
) -> dict[int, Fitted]:
    """Choose ranks and fit factors to the calibration data.

    Parameters
    ----------
    runs
        Of the model on the batches.
    factoring
        Of its weights, whose spectra are known; its choices and plain splits are complete afterwards.
    report
        Called with (done, total, layer name) as layers are fitted, and for batches meanwhile.
    processes
        Those whose batches count, each with its own.

    Returns
    -------
    dict
        By number of the group, for every group whose split is wanted.

    Raises
    ------
    InputsError
        The model fails on a batch, a layer's input is not finite, or there are no batches.
    LayerError
        A bias is not finite.
    ConfigError
        A rank is not possible for its layer.
    """
    groups = factoring.groups
    biases = [correctable_biases(runs.model, group, add=runs.calibration.add_bias) for group in groups]
    for group, numbers in zip(groups, biases, strict=True):
        for layer, module, number in zip(group.layers, group.modules, numbers, strict=True):
            if number is not None and not is_finite(bias_of(module)):
                raise LayerError(f"layer {quoted(layer.names[0])}: expected a finite bias, found NaN or infinity in it")
    factoring.choose_before_data(unaffordable(groups, factoring.open_methods, runs.calibration.memory))
    fitting = _LayerAfterLayer if mode_of_layers(runs.calibration.mode) == "reconstruct" else _AllAtOnce
    fitted = fitting(runs, factoring, biases, report, processes).fit()
    warn_of_few_data(groups, fitted)
    return refine(runs, groups, fitted, report, processes) if runs.calibration.mode == "refine" else fitted


@dataclass(frozen=True)
class _Recording:
    """What the original was seen to do on the batches.

    Attributes
    ----------
    sums
        By number of the weight group, of what its layers see, where that is summed up.
    recorders
        Of all layers, with the responses that they keep.
    order
        The groups in the order in which they first run; those that run in other processes only are last.
    """

    sums: dict[int, MomentSums]
    recorders: Recorders
    order: list[int]


class _Fitting:
    """What the two ways to go over the data have in common."""

    def __init__(
        self,
        runs: Runs,
        factoring: Factoring,
        biases: Sequence[Sequence[int | None]],
        report: ProgressFunction,
        processes: ProcessGroup,
    ) -> None:
        self.runs, self.factoring, self.biases = runs, factoring, biases
        self.report, self.processes = report, processes
        self.groups = factoring.groups
        # Those that a choice is still open for may be wanted.
        self.candidates = sorted({*factoring.wanted, *factoring.undecided})
        self.modes, self.notes = affordable_modes(self.groups, self.candidates, runs.calibration)

    def choose_by_data(self, sums: Mapping[int, MomentSums]) -> None:
        """Choose the ranks that depend on the data, from the moments of what the original layers see."""
        open_ = self.factoring.undecided
        # Of a layer that no batch has reached the weight alone is known; the plan keeps it.
        self.factoring.choose_without_data([index for index in open_ if not sums[index].samples])
        added_biases = {
            index: sum(
                number is not None and module.bias is None
                for module, number in zip(self.groups[index].modules, self.biases[index], strict=True)
            )
            for index in open_
        }

        def seen(index: int, by_method: Mapping[str, WeightGroup]) -> dict[str, OnData]:
            mode = self.modes[index] if self.factoring.has_budget else None
            return seen_through_data(by_method, sums[index], mode)

        self.factoring.choose_by_data(
            seen, lambda: influences(self.runs, self.factoring, self.report, self.processes), added_biases
        )

    def sums_to_choose_by(self, index: int) -> MomentSums:
        """Sums of what the first stage of a group sees; of whole patches where its method is still to be chosen."""
        method_is_open = index in self.factoring.open_methods
        return MomentSums(None if method_is_open else first_stage_offsets(self.groups[index]))

    def recorders(self, sums: Mapping[int, MomentSums]) -> Recorders:
        """A recorder for every layer that may be fitted."""
        batches = self.runs.count() or _USUAL_BATCHES
        calibration = self.runs.calibration
        positions = positions_that_fit(
            self.groups, self.modes, calibration.memory, keeping=mode_of_layers(calibration.mode) == "reconstruct"
        )
        return {
            index: [
                LayerRecorder(
                    layer.names[0],
                    cast(LayerSpec, layer.spec),
                    module,
                    number,
                    positions[index] / batches,
                    sums.get(index),
                )
                for layer, module, number in zip(
                    self.groups[index].layers, self.groups[index].modules, self.biases[index], strict=True
                )
            ]
            for index in self.candidates
        }

    def recorded(
        self, sums: Callable[[], dict[int, MomentSums]], forward_of: Callable[[LayerRecorder], Forward]
    ) -> _Recording:
        """What the original does on the batches; it runs unless that is known from an earlier plan.

        Parameters
        ----------
        sums
            Gives the sums to add to, by number of the group.
        forward_of
            What records a call of a layer.
        """

        def record() -> _Recording:
            total = sums()
            recorders = self.recorders(total)
            order = self._run_original(recorders, forward_of)
            for one in total.values():
                one.pool(self.processes)
            return _Recording(total, recorders, order)

        return self.factoring.reuse.once(_RECORDING, record)

    def own_sums(self, recording: _Recording, index: int) -> MomentSums:
        """Those of a group, which go once it is fitted, unless further plans need them."""
        return recording.sums[index] if self.factoring.reuse.keeps(_RECORDING) else recording.sums.pop(index)

    def _run_original(self, recorders: Recorders, forward_of: Callable[[LayerRecorder], Forward]) -> list[int]:
        """Run the original on the batches, recording; see `_Recording.order`."""
        order: dict[int, None] = {}

        def noting(index: int, forward: Forward) -> Forward:
            def noted(input: Tensor) -> Tensor:  # noqa: A002  # Conv2d's own name for it
                order.setdefault(index)
                return forward(input)

            return noted

        def begin(batch: int) -> bool:
            self.report(0, len(self.groups), f"batch {batch}")
            for group in recorders.values():
                for recorder in group:
                    recorder.begin(batch, keeping=batch in self.runs.kept, repeated=self.runs.repeated.get(batch))
            return True

        forwards: dict[nn.Module, Forward] = {
            recorder.module: noting(index, forward_of(recorder))
            for index, group in recorders.items()
            for recorder in group
        }
        with acting(forwards):
            self.runs.fitting_pass(begin)
        warn_of_repeats(self.runs.repeated.values(), itertools.chain.from_iterable(recorders.values()))
        return list(dict.fromkeys(index for orders in self.processes.gather(list(order)) for index in orders))

    def unfitted(self, index: int) -> Fitted:
        """The plain split of a group that no batch reaches."""
        return Fitted.unfitted(self.groups[index], self.factoring.plain[index], _IDLE)


class _AllAtOnce(_Fitting):
    """One pass over the data for all layers."""

    def fit(self) -> dict[int, Fitted]:
        recording = self.recorded(
            lambda: {
                index: MomentSums(None) if self.modes[index] != "whiten" else self.sums_to_choose_by(index)
                for index in self.candidates
            },
            lambda recorder: recorder.sum_up,
        )
        sums, recorders = recording.sums, recording.recorders
        self.choose_by_data(sums)
        wanted = self.factoring.wanted

        def fit_one(index: int) -> Fitted:
            if not sums[index].samples:
                return self.unfitted(index)
            # The first of several to run does see just these inputs, yet on the digits network accuracy is higher
            # where it too counts on noise.
            return fit(
                self.groups[index],
                self.factoring.plain[index],
                self.own_sums(recording, index),
                self.biases[index],
                self.modes[index],
                self.notes[index],
                as_seen=len(wanted) == 1,
            )

        fitted = self.factoring.share_out(fit_one, wanted)
        used = [index for index in recording.order if index in fitted]
        return rescale(self.runs, self.groups, fitted, recorders, used, self.report, self.processes)


class _LayerAfterLayer(_Fitting):
    """One pass with the original, then one for each layer in the order in which they run."""

    def fit(self) -> dict[int, Fitted]:
        recording = self.recorded(
            lambda: {index: self.sums_to_choose_by(index) for index in self.factoring.undecided},
            lambda recorder: recorder.record,
        )
        order, recorders = recording.order, recording.recorders
        self.choose_by_data(recording.sums)
        wanted = self.factoring.wanted
        fitted = {index: self.unfitted(index) for index in wanted if index not in order}
        chains: dict[nn.Module, Forward] = {}
        for index in order:
            if index not in wanted:
                continue
            fitted[index] = self._fit_one(index, recorders[index], chains)
            chains.update(chains_for(self.groups[index], fitted[index].factors, fitted[index].biases))
            self.report(len(fitted), len(wanted), self.groups[index].name)
        return fitted

    def _fit_one(self, index: int, recorders: Sequence[LayerRecorder], chains: Mapping[nn.Module, Forward]) -> Fitted:
        group, mode = self.groups[index], self.modes[index]
        sums = MomentSums(first_stage_offsets(group) if mode == "whiten" else None)
        self._see_inputs(recorders, sums, chains)
        if not self.factoring.reuse.keeps(_RECORDING):
            for recorder in recorders:
                recorder.forget()  # it holds many responses
        sums.pool(self.processes)

        def found() -> Fitted:
            if not sums.samples:  # with layers before it decomposed, nothing comes here any more
                return self.unfitted(index)
            return fit(
                group,
                self.factoring.plain[index],
                sums,
                self.biases[index],
                mode,
                self.notes[index],
                as_seen=len(self.factoring.wanted) == 1,
            )

        with exact_matmul():
            return self.processes.from_first(found)

    def _see_inputs(
        self, recorders: Sequence[LayerRecorder], sums: MomentSums, chains: Mapping[nn.Module, Forward]
    ) -> None:
        """Sum up what the layers see in the network as decomposed so far, and what the original answered there."""
        left = 0

        def seeing(recorder: LayerRecorder) -> Forward:
            def forward(input: Tensor) -> Tensor:  # noqa: A002
                nonlocal left
                response = recorder.compare(input, sums)
                left -= 1
                if left == 0:
                    raise EndOfRun
                return response

            return forward

        def begin(batch: int) -> bool:
            nonlocal left
            for recorder in recorders:
                recorder.begin(batch, repeated=self.runs.repeated.get(batch))
            left = sum(recorder.recorded(batch) for recorder in recorders)
            return left > 0

        with acting({**chains, **{recorder.module: seeing(recorder) for recorder in recorders}}):
            self.runs.fitting_pass(begin)
