"""Fit the layers of a model to calibration data, in one pass or layer after layer. The model stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from ..._run.intercept import Forward, acting
from ..._run.process_group import ProcessGroup as Team
from ..._run.progress import Report
from ..._run.tensors import is_finite
from ...errors import LayerError, warn_user
from ..methods.linalg import exact_matmul
from ..methods.weight_group import Job
from ..model.spec import ConvSpec
from .data import Calibration, EndOfRun, Mode, Runs
from .layer_fit import (
    Fitted,
    bias_of,
    bytes_of_moments,
    correctable_biases,
    fit,
    offsets_of,
    positions_wanted,
    rows_for,
)
from .moments import MomentSums
from .recorder import Watch
from .rescale import rescale

# Of an iterable that does not tell its length: a usual number of batches.
_USUAL_BATCHES = 8
# With fewer samples for an unknown than this the fit is mostly guesswork.
_FEW_SAMPLES = 2

FitAll = Callable[[Callable[[int], Fitted]], list[Fitted]]
"""Gives what a function gives for the index of every job, several at a time."""


def fit_to_data(runs: Runs, jobs: Sequence[Job], fit_all: FitAll, report: Report, team: Team) -> list[Fitted]:
    """Factors for every job, fitted to the calibration data.

    Parameters
    ----------
    runs
        Of the model on the batches.
    fit_all
        How to go through jobs that do not depend on one another.
    report
        Told (done, total, layer name) as layers are fitted, and of batches meanwhile.
    team
        The ranks whose batches count, each with its own.

    Raises
    ------
    InputsError
        The model fails on a batch, a layer's input is not finite, or there are no batches.
    """
    biases = [correctable_biases(runs.model, job, add=runs.calibration.add_bias) for job in jobs]
    for job, numbers in zip(jobs, biases, strict=True):
        for layer, module, number in zip(job.layers, job.modules, numbers, strict=True):
            if number is not None and not is_finite(bias_of(module)):
                raise LayerError(f"layer {layer.names[0]!r}: expected a finite bias, found NaN or infinity in it")
    if runs.calibration.mode == "reconstruct":
        fitted = _layer_after_layer(runs, jobs, biases, report, team)
    else:
        fitted = _all_at_once(runs, jobs, biases, fit_all, report, team)
    _warn(runs, jobs, fitted)
    return fitted


def _all_at_once(
    runs: Runs,
    jobs: Sequence[Job],
    biases: Sequence[Sequence[int | None]],
    fit_all: FitAll,
    report: Report,
    team: Team,
) -> list[Fitted]:
    modes, notes = _affordable(jobs, runs.calibration)
    sums = [MomentSums(offsets_of(job) if mode == "whiten" else None) for job, mode in zip(jobs, modes, strict=True)]
    watches = _watches(runs, jobs, modes, biases, sums)
    order = _watch_all(runs, watches, lambda watch: watch.looking_on, report, team)
    for total in sums:
        total.pool(team)

    def fit_one(index: int) -> Fitted:
        if not sums[index].samples:
            return Fitted.unfitted(jobs[index], _IDLE)
        # The first of several to run does see just these, yet on the digits network accuracy is higher where it too
        # is careful.
        return fit(jobs[index], sums[index], biases[index], modes[index], notes[index], as_seen=len(jobs) == 1)

    fitted = fit_all(fit_one)
    return rescale(runs, jobs, fitted, watches, order, report, team)


def _layer_after_layer(
    runs: Runs, jobs: Sequence[Job], biases: Sequence[Sequence[int | None]], report: Report, team: Team
) -> list[Fitted]:
    modes, notes = _affordable(jobs, runs.calibration)
    watches = _watches(runs, jobs, modes, biases, [None] * len(jobs))
    order = _watch_all(runs, watches, lambda watch: watch.recording, report, team)
    idle = [index for index in range(len(jobs)) if index not in order]
    with exact_matmul():
        unfitted = team.from_first(lambda: [Fitted.unfitted(jobs[index], _IDLE) for index in idle])
    fitted = dict(zip(idle, unfitted, strict=True))
    rows: dict[nn.Module, Forward] = {}
    for index in order:
        job = jobs[index]
        sums = MomentSums(offsets_of(job) if modes[index] == "whiten" else None)
        _see_inputs(runs, watches[index], sums, rows)
        for watch in watches[index]:
            watch.forget()  # it holds many responses
        sums.pool(team)

        def found(index: int = index, sums: MomentSums = sums) -> Fitted:
            if not sums.samples:  # with layers before it decomposed, nothing comes here any more
                return Fitted.unfitted(jobs[index], _IDLE)
            return fit(jobs[index], sums, biases[index], modes[index], notes[index])

        with exact_matmul():
            fitted[index] = team.from_first(found)
        if job.gains(fitted[index].factors.rank):
            rows.update(rows_for(job, fitted[index].factors, fitted[index].biases))
        report(len(fitted), len(jobs), job.name)
    return [fitted[index] for index in range(len(jobs))]


def _watches(
    runs: Runs,
    jobs: Sequence[Job],
    modes: Sequence[Mode],
    biases: Sequence[Sequence[int | None]],
    sums: Sequence[MomentSums | None],
) -> list[list[Watch]]:
    """For each job one watch for each of its layers."""
    batches = runs.count() or _USUAL_BATCHES
    return [
        [
            Watch(layer.names[0], cast(ConvSpec, layer.conv), module, number, budget, total)
            for layer, module, number in zip(job.layers, job.modules, numbers, strict=True)
        ]
        for job, budget, numbers, total in zip(
            jobs,
            [positions_wanted(job, mode) / batches for job, mode in zip(jobs, modes, strict=True)],
            biases,
            sums,
            strict=True,
        )
    ]


def _watch_all(
    runs: Runs,
    watches: Sequence[Sequence[Watch]],
    way: Callable[[Watch], Forward],
    report: Report,
    team: Team,
) -> list[int]:
    """Run the original on the batches, watched in some way.

    Returns
    -------
    list of int
        The jobs in the order in which they first run; those that run on other ranks only are last.
    """
    order: dict[int, None] = {}

    def watching(index: int, forward: Forward) -> Forward:
        def noted(input: Tensor) -> Tensor:  # noqa: A002  # Conv2d's own name for it
            order.setdefault(index)
            return forward(input)

        return noted

    def begin(batch: int) -> bool:
        report(0, len(watches), f"batch {batch}")
        for group in watches:
            for watch in group:
                watch.begin(batch, keeping=batch in runs.kept)
        return True

    with acting({watch.module: watching(index, way(watch)) for index, group in enumerate(watches) for watch in group}):
        runs.fitting_pass(begin)
    return list(dict.fromkeys(index for orders in team.gather(list(order)) for index in orders))


def _see_inputs(runs: Runs, watches: Sequence[Watch], sums: MomentSums, rows: Mapping[nn.Module, Forward]) -> None:
    """Sum up what the layers see in the network as decomposed so far, and what the original answered there."""
    left = 0

    def seeing(watch: Watch) -> Forward:
        def forward(input: Tensor) -> Tensor:  # noqa: A002
            nonlocal left
            response = watch.comparing(input, sums)
            left -= 1
            if left == 0:
                raise EndOfRun
            return response

        return forward

    def begin(batch: int) -> bool:
        nonlocal left
        for watch in watches:
            watch.begin(batch)
        left = sum(watch.recorded(batch) for watch in watches)
        return left > 0

    with acting({**rows, **{watch.module: seeing(watch) for watch in watches}}):
        runs.fitting_pass(begin)


_IDLE = "the calibration batches never reach it"


def _affordable(jobs: Sequence[Job], calibration: Calibration) -> tuple[list[Mode], list[str]]:
    """The mode for every job, and why where it is not the one asked for."""
    modes: list[Mode] = [calibration.mode] * len(jobs)
    notes = [""] * len(jobs)
    if calibration.mode == "whiten":
        return modes, notes
    taken = 0
    for index in sorted(range(len(jobs)), key=lambda index: bytes_of_moments(jobs[index])):
        needed = bytes_of_moments(jobs[index]) + (taken if calibration.mode == "refit" else 0)
        if needed > calibration.memory:
            modes[index] = "whiten"
            notes[index] = f"{calibration.mode} would take {_gib(needed)} of memory, over {_gib(calibration.memory)}"
        else:
            taken = needed
    return modes, notes


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"


def _warn(runs: Runs, jobs: Sequence[Job], fitted: Sequence[Fitted]) -> None:
    idle = [job.name for job, one in zip(jobs, fitted, strict=True) if one.fit.mode == "plain"]
    if idle:
        warn_user(f"the calibration batches never reach {', '.join(map(repr, idle))}: split as without calibration")
    few = {
        job.name: one.fit.samples / one.fit.unknowns
        for job, one in zip(jobs, fitted, strict=True)
        if one.fit.samples and one.fit.samples < _FEW_SAMPLES * one.fit.unknowns
    }
    if few:
        name = min(few, key=few.__getitem__)
        needed = max(2, round(0.5 + _FEW_SAMPLES / few[name]))
        warn_user(
            f"too few calibration data for {', '.join(map(repr, few))}: {few[name]:.2g} samples an unknown in "
            f"{name!r}, where {_FEW_SAMPLES} are the least to rely on: give {needed} times as many inputs, "
            "or choose lower ranks"
        )
