"""Fit the layers of a model to calibration data, in one pass or layer after layer. The model stays as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ..errors import InputsError, LayerError, warn_user
from .calibration import Calibration, EndOfRun, Forward, Mode, Runs, acting
from .conv import ConvSpec
from .decomposed import DecomposedConv2d
from .fitted import Fitted, bytes_of_moments, correctable_biases, fit, offsets_of, positions_wanted
from .jobs import Job
from .linalg import exact_matmul
from .methods import Factors
from .moments import (
    MomentSums,
    Positions,
    halves_of,
    patches_at,
    responses_at,
    sample_positions,
    windows,
)
from .progress import Report
from .surgery import build_row, parameters_like
from .team import Team

# Of an iterable that does not tell its length: a usual number of batches.
_USUAL_BATCHES = 8
# With fewer samples for an unknown than this the fit is mostly guesswork.
_FEW_SAMPLES = 2

Result = TypeVar("Result")

FitAll = Callable[[Callable[[int], Fitted]], list[Fitted]]
"""Gives what a function gives for the index of every job, several at a time."""


def rows_for(
    job: Job, factors: Factors, biases: Sequence[Tensor | None] | None = None
) -> dict[nn.Module, DecomposedConv2d]:
    """For each layer of a job what would replace it, with these biases or its own."""
    rows: dict[nn.Module, DecomposedConv2d] = {}
    biases = [None] * len(job.layers) if biases is None else biases
    for layer, module, bias in zip(job.layers, job.modules, biases, strict=True):
        stages = job.method.stages(cast(ConvSpec, layer.conv), factors.rank)
        own = None if bias is None else parameters_like(cast(Tensor, module.bias), [bias])[0]
        rows[module] = build_row(module, stages, parameters_like(module.weight, factors.weights), own)
    return rows


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
    biases = [correctable_biases(runs.model, job) for job in jobs]
    for job, numbers in zip(jobs, biases, strict=True):
        for layer, module, number in zip(job.layers, job.modules, numbers, strict=True):
            if number is not None and not bool(torch.isfinite(cast(Tensor, module.bias)).all()):
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
    batches = runs.count() or _USUAL_BATCHES
    watches = [
        _Watch(layer.names[0], cast(ConvSpec, layer.conv), module, number, positions_wanted(job, mode) / batches, total)
        for job, mode, total, numbers in zip(jobs, modes, sums, biases, strict=True)
        for layer, module, number in zip(job.layers, job.modules, numbers, strict=True)
    ]

    def begin(index: int) -> bool:
        report(0, len(jobs), f"batch {index}")
        for watch in watches:
            watch.begin(index)
        return True

    with acting({watch.module: watch.looking_on for watch in watches}):
        runs.fitting_pass(begin)
    for total in sums:
        total.pool(team)

    def fit_one(index: int) -> Fitted:
        if not sums[index].samples:
            return Fitted.unfitted(jobs[index], _IDLE)
        return fit(jobs[index], sums[index], biases[index], modes[index], notes[index])

    return fit_all(fit_one)


def _layer_after_layer(
    runs: Runs, jobs: Sequence[Job], biases: Sequence[Sequence[int | None]], report: Report, team: Team
) -> list[Fitted]:
    modes, notes = _affordable(jobs, runs.calibration)
    batches = runs.count() or _USUAL_BATCHES
    watches = [
        [
            _Watch(layer.names[0], cast(ConvSpec, layer.conv), module, number, positions_wanted(job, mode) / batches)
            for layer, module, number in zip(job.layers, job.modules, numbers, strict=True)
        ]
        for job, mode, numbers in zip(jobs, modes, biases, strict=True)
    ]
    own_order = _record_targets(runs, watches, lambda index: report(0, len(jobs), f"batch {index}"))
    order = list(dict.fromkeys(index for orders in team.gather(own_order) for index in orders))

    def on_first_rank(function: Callable[[], Result]) -> Result:
        """What one rank computes for all, as others may round in another way."""
        with exact_matmul():
            own = function() if team.rank == 0 else None
        return cast(Result, team.gather(own)[0])

    idle = [index for index in range(len(jobs)) if index not in order]
    unfitted = on_first_rank(lambda: [Fitted.unfitted(jobs[index], _IDLE) for index in idle])
    fitted = dict(zip(idle, unfitted, strict=True))
    rows: dict[nn.Module, Forward] = {}
    for index in order:
        job = jobs[index]
        sums = MomentSums(offsets_of(job) if modes[index] == "whiten" else None)
        _see_inputs(runs, watches[index], sums, rows)
        watches[index].clear()  # it holds many responses
        sums.pool(team)

        def found(index: int = index, sums: MomentSums = sums) -> Fitted:
            if not sums.samples:  # with layers before it decomposed, nothing comes here any more
                return Fitted.unfitted(jobs[index], _IDLE)
            return fit(jobs[index], sums, biases[index], modes[index], notes[index])

        fitted[index] = on_first_rank(found)
        if job.gains(fitted[index].factors.rank):
            rows.update(rows_for(job, fitted[index].factors, fitted[index].biases))
        report(len(fitted), len(jobs), job.name)
    return [fitted[index] for index in range(len(jobs))]


def _record_targets(runs: Runs, watches: Sequence[Sequence[_Watch]], report: Callable[[int], object]) -> list[int]:
    """Keep the original's responses at the sampled positions. Returns the jobs in the order in which they first run."""
    order: dict[int, None] = {}
    every = [(index, watch) for index, group in enumerate(watches) for watch in group]

    def recording(index: int, watch: _Watch) -> Forward:
        def forward(input: Tensor) -> Tensor:  # noqa: A002  # Conv2d's own name for it
            order.setdefault(index)
            return watch.recording(input)

        return forward

    def begin(batch: int) -> bool:
        report(batch)
        for _, watch in every:
            watch.begin(batch)
        return True

    with acting({watch.module: recording(index, watch) for index, watch in every}):
        runs.fitting_pass(begin)
    return list(order)


def _see_inputs(runs: Runs, watches: Sequence[_Watch], sums: MomentSums, rows: Mapping[nn.Module, Forward]) -> None:
    """Sum up what the layers see in the network as decomposed so far, and what the original answered there."""
    left = 0

    def seeing(watch: _Watch) -> Forward:
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


@dataclass
class _Watch:
    """Looks on at the calls of one layer.

    Attributes
    ----------
    intercept
        The number of its bias, as of `correctable_biases`.
    budget
        How many positions to sample at a call.
    sums
        Where to add what it sees, where that is also what it answers to.
    """

    name: str
    conv: ConvSpec
    module: nn.Conv2d
    intercept: int | None
    budget: float
    sums: MomentSums | None = None
    _batch: int = 0
    _calls: int = 0
    _targets: dict[int, list[tuple[torch.Size, Tensor]]] = field(default_factory=lambda: defaultdict(list))

    def begin(self, batch: int) -> None:
        """A run on this batch begins."""
        self._batch, self._calls = batch, 0

    def recorded(self, batch: int) -> int:
        """How many calls of the original were recorded on this batch."""
        return len(self._targets.get(batch, ()))

    def looking_on(self, input: Tensor) -> Tensor:  # noqa: A002
        """The layer's response; what it sees goes to the sums."""
        response, images, _, where = self._call(input)
        self._add(cast(MomentSums, self.sums), images, None, where)
        return response

    def recording(self, input: Tensor) -> Tensor:  # noqa: A002
        """The layer's response, which is kept at the sampled positions."""
        response, _, answers, where = self._call(input)
        self._targets[self._batch].append((answers.shape, self._linear(answers, where).cpu()))
        return response

    def comparing(self, input: Tensor, sums: MomentSums) -> Tensor:  # noqa: A002
        """The layer's response; what it sees goes to the sums with what was recorded at this call.

        Where the original's call had another shape there is nothing to compare with, and the target is the
        layer's own response.
        """
        response, images, answers, where = self._call(input)
        recorded = self._targets[self._batch]
        target = self._linear(answers, where)
        if self._calls <= len(recorded) and recorded[self._calls - 1][0] == answers.shape:
            target = recorded[self._calls - 1][1].to(target.device)
        self._add(sums, images, target, where)
        return response

    def _call(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor, Positions]:  # noqa: A002
        """The response as the layer gives it, then with a batch axis: input, response, and positions in it."""
        if not _is_finite(input):
            raise InputsError(
                f"layer {self.name!r}: its input on calibration batch {self._batch} holds NaN or infinity: "
                "nothing can be fitted to that; look at the batch, or at the layers before"
            )
        response = nn.Conv2d.forward(self.module, input)
        images, answers = (tensor if tensor.dim() == 4 else tensor[None] for tensor in (input, response))
        seed = self._batch * 1_000_003 + self._calls
        self._calls += 1
        return response, images, answers, sample_positions(answers.shape, self.budget, seed)

    def _linear(self, answers: Tensor, where: Positions) -> Tensor:
        values = _wide(responses_at(answers, where))
        return values if self.module.bias is None else values - self.module.bias.detach().to(values.dtype)

    def _add(self, sums: MomentSums, images: Tensor, targets: Tensor | None, where: Positions) -> None:
        height = self.conv.output_size(images.shape[2], images.shape[3])[0]
        second = halves_of(where, height, self._batch)
        seen = windows(_wide(images), self.conv)
        for half, mask in enumerate((~second, second)):
            wanted = None if targets is None else targets[mask.to(targets.device)]
            sums.add(half, patches_at(seen, where.only(mask)), wanted, where.scale, self.intercept)


def _wide(values: Tensor) -> Tensor:
    return values.detach() if values.dtype == torch.float64 else values.detach().float()


def _is_finite(values: Tensor) -> bool:
    if not values.numel():
        return True
    least, most = torch.aminmax(values.detach())
    return bool(torch.isfinite(least) & torch.isfinite(most))


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
