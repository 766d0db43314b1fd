"""Scale what fitted layers answer to what the original answers, channel by channel, in the network as decomposed.

Factors that were fitted to the inputs of the original answer with too little: of each channel the part is missing
that a low rank leaves out, so the next layer sees too little, and its answers lack that as well. One scale for each
output channel, and a shift where there is a bias to correct, makes up for most of it. They are found by least squares
against the responses of the original, in a single run of the network as decomposed, in which every layer sees what
the layers before it give with the scales that they have so far. (K. Jordan, H. Sedghi, O. Saukh, R. Entezari,
B. Neyshabur, "REPAIR: REnormalizing Permuted Activations for Interpolation Repair", ICLR 2023, restore the variances
of averaged networks in a run like that.)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from ..._run.intercept import Forward, acting
from ..._run.process_group import ProcessGroup as Team
from ..._run.progress import Report
from ..methods.linalg import exact_matmul
from ..methods.weight_group import Job
from ..model.chain import DecomposedConv2d
from .data import EndOfRun, Runs
from .layer_fit import Fitted, bias_of, offsets_of, relative_error, rows_for
from .least_squares import composed
from .recorder import Watch

# As if so many positions more had asked for a scale of 1: what is seen only a few times changes little.
_PRIOR_POSITIONS = 16
# The scales of a layer's channels are alike, so each is drawn towards the one that serves all of them best, as if that
# had been seen for such a share of the positions: on few inputs single channels are uncertain.
_SHARE_IN_COMMON = 0.25


@dataclass
class _Sums:
    """Sums over positions for the layers of one job, by the number of their bias; None for those without.

    Each is (6, out): positions, what the row answers y, what is wanted t, y², t·y, t².
    """

    by_intercept: dict[int | None, Tensor] = field(default_factory=dict)

    def add(self, intercept: int | None, found: Tensor, wanted: Tensor) -> None:
        """Add responses without bias, (n, out) each."""
        y, t = found.double(), wanted.double()
        sums = torch.stack([item.sum(0) for item in (torch.ones_like(y), y, t, y * y, t * y, t * t)])
        before = self.by_intercept.get(intercept)
        self.by_intercept[intercept] = sums if before is None else before + sums

    def pool(self, team: Team) -> None:
        """Add up what every rank has summed."""
        told = team.gather(self.by_intercept)
        numbers = dict.fromkeys(number for own in told for number in own)
        self.by_intercept = {
            number: torch.stack([own[number] for own in told if number in own]).sum(0) for number in numbers
        }

    def solve(self) -> tuple[Tensor, dict[int, Tensor]]:
        """The scale (out,) that the layers have in common, and for each bias the shift (out,) of what it is without."""
        positions, of_rows, products, energy = torch.zeros(4, 1, dtype=torch.float64, device="cpu")
        for intercept, (n, y, t, yy, ty, tt) in self.by_intercept.items():
            centred = float(intercept is not None) / n
            positions = positions + n
            of_rows = of_rows + yy - centred * y * y
            products = products + ty - centred * t * y
            energy = energy + tt - centred * t * t
        of_rows = of_rows.clamp_min(0)
        prior = _PRIOR_POSITIONS / positions * energy.clamp_min(0)
        usable = (products + of_rows).isfinite()  # a row may overflow in half precision
        common = (products + prior)[usable].sum() / (of_rows + prior)[usable].sum()
        prior = prior + _SHARE_IN_COMMON * of_rows
        scale = (products + prior * common) / (of_rows + prior)
        scale = torch.where(scale.isfinite(), scale, 1.0)
        shifts = {
            number: (t - scale * y) / n for number, (n, y, t, *_) in self.by_intercept.items() if number is not None
        }
        return scale, {number: shift for number, shift in shifts.items() if bool(shift.isfinite().all())}


def rescale(
    runs: Runs,
    jobs: Sequence[Job],
    fitted: Sequence[Fitted],
    watches: Sequence[Sequence[Watch]],
    order: Sequence[int],
    report: Report,
    team: Team,
) -> list[Fitted]:
    """The fitted factors with the last ones scaled, and the biases corrected once more.

    The first layer to run stays as it is: it sees what it was fitted to.

    Parameters
    ----------
    watches
        For each job those of its layers, which have looked on at the runs on the batches kept.
    order
        The jobs in the order in which they first run.
    report
        Told (done, total, text) of batches.
    team
        The ranks whose batches count, each with its own.
    """
    used = [index for index in order if jobs[index].gains(fitted[index].factors.rank)]
    result = list(fitted)
    if len(used) < 2:
        return result
    sums = {index: _Sums() for index in used[1:]}
    rows: dict[nn.Module, Forward] = {}
    scaled: list[Watch] = []
    left = 0

    def scaling(watch: Watch, row: DecomposedConv2d, total: _Sums) -> Forward:
        def forward(input: Tensor) -> Tensor:  # noqa: A002  # Conv2d's own name for it
            nonlocal left
            response = row(input)
            pair = watch.pair(response, row.bias)
            if pair is None:
                return cast(Tensor, response)
            total.add(watch.intercept, *pair)
            left -= 1
            if left == 0:
                raise EndOfRun
            return _rescaled(response, row.bias, watch, total)

        return forward

    for index in used:
        new = rows_for(jobs[index], fitted[index].factors, fitted[index].biases)
        rows.update(new)
        if index in sums:
            for watch in watches[index]:
                rows[watch.module] = scaling(watch, new[watch.module], sums[index])
            scaled += watches[index]

    def begin(batch: int) -> bool:
        nonlocal left
        report(len(jobs), len(jobs), f"batch {batch}")
        for watch in scaled:
            watch.begin(batch)
        left = sum(watch.recorded(batch) for watch in scaled)
        return left > 0

    with acting(rows):
        runs.again(begin)
    for index, total in sums.items():
        total.pool(team)
        if total.by_intercept:
            scaled_here = functools.partial(_with_scale, jobs[index], fitted[index], watches[index], total)
            result[index] = team.from_first(scaled_here)
    return result


def _rescaled(response: Tensor, bias: Tensor | None, watch: Watch, total: _Sums) -> Tensor:
    """A response with the scale and shift that are known so far."""
    scale, shifts = total.solve()

    def by_channel(values: Tensor) -> Tensor:
        return values.to(response.dtype).to(response.device)[:, None, None]  # not every device knows float64

    scaled = response * by_channel(scale)
    if bias is None:
        return scaled
    before = bias.detach().cpu().double()
    after = _corrected(watch, shifts)
    return scaled.add_(by_channel((before if after is None else after) - scale * before))


def _corrected(watch: Watch, shifts: dict[int, Tensor]) -> Tensor | None:
    """The bias (out,) that a layer is to have, or None where it keeps the one it has."""
    if watch.intercept not in shifts:
        return None
    return bias_of(watch.module) + shifts[watch.intercept]


def _with_scale(job: Job, fitted: Fitted, watches: Sequence[Watch], total: _Sums) -> Fitted:
    scale, shifts = total.solve()
    first, last = fitted.factors.weights
    new_last = (last.double() * scale[:, None, None, None]).to(last.dtype)
    with exact_matmul():
        kernel = composed(first.double(), new_last.double(), offsets_of(job))
        error = relative_error(kernel, job.weight().double().flatten(1))
    biases = []
    for watch, bias in zip(watches, fitted.biases, strict=True):
        corrected = _corrected(watch, shifts)
        biases.append(bias if corrected is None else corrected)
    return dataclasses.replace(
        fitted,
        factors=dataclasses.replace(fitted.factors, weights=(first, new_last), error=error),
        biases=tuple(biases),
        fit=dataclasses.replace(fitted.fit, scales=(float(scale.min()), float(scale.max()))),
    )
