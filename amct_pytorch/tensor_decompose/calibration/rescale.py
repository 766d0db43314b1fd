"""Scale the responses of fitted layers to those of the original, channel by channel, in the network as decomposed.

Factors that were fitted to the inputs of the original respond too weakly: what a low rank leaves out is missing from
each channel, so the next layer sees too little, and its response is weaker still. One scale for each output channel,
and a shift where there is a bias to correct, make up for most of it. They are found by least squares on the responses
of the original, in a single run of the network as decomposed, in which every layer sees what the layers before it give
with the scales that they have so far. (K. Jordan, H. Sedghi, O. Saukh, R. Entezari,
B. Neyshabur, "REPAIR: REnormalizing Permuted Activations for Interpolation Repair", ICLR 2023, restore the variances
of averaged networks in a run like that.)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from ..._run.intercept import Forward, acting
from ..._run.process_group import ProcessGroup
from ..._run.progress import ProgressFunction
from ..methods.linalg import exact_matmul
from ..methods.weight_group import WeightGroup
from ..model.chain import DecomposedLayer
from .biases import bias_of
from .layer_fit import Fitted
from .recorder import LayerRecorder
from .runs import EndOfRun, Runs
from .trial_chains import chains_for

# Pseudo-count of positions that ask for a scale of 1: a channel that is seen only a few times changes little.
_PRIOR_POSITIONS = 16
# The scales of a layer's channels are alike, and on few inputs those of single channels are uncertain. So each is drawn
# towards the scale that serves all channels best, by a pseudo-count of this share of the positions.
_SHARE_IN_COMMON = 0.25


@dataclass
class _Sums:
    """Sums over positions for the layers of one weight group, by the number of their bias; None for those without.

    Each is (6, out): positions, what the chain answers y, what is wanted t, y², t·y, t².
    """

    by_intercept: dict[int | None, Tensor] = field(default_factory=dict)

    def add(self, intercept: int | None, found: Tensor, wanted: Tensor) -> None:
        """Add responses without bias, (n, out) each."""
        y, t = found.double(), wanted.double()
        sums = torch.stack([item.sum(0) for item in (torch.ones_like(y), y, t, y * y, t * y, t * t)])
        before = self.by_intercept.get(intercept)
        self.by_intercept[intercept] = sums if before is None else before + sums

    def pool(self, processes: ProcessGroup) -> None:
        """Add up what every process has summed."""
        gathered = processes.gather(self.by_intercept)
        numbers = dict.fromkeys(number for own in gathered for number in own)
        self.by_intercept = {
            number: torch.stack([own[number] for own in gathered if number in own]).sum(0) for number in numbers
        }

    def solve(self) -> tuple[Tensor, dict[int, Tensor]]:
        """The scale (out,) that the layers have in common, and for each bias the shift (out,) of what it is without."""
        positions, of_chains, products, energy = torch.zeros(4, 1, dtype=torch.float64, device="cpu")
        for intercept, (n, y, t, yy, ty, tt) in self.by_intercept.items():
            centred = float(intercept is not None) / n
            positions = positions + n
            of_chains = of_chains + yy - centred * y * y
            products = products + ty - centred * t * y
            energy = energy + tt - centred * t * t
        of_chains = of_chains.clamp_min(0)
        prior = _PRIOR_POSITIONS / positions * energy.clamp_min(0)
        usable = (products + of_chains).isfinite()  # a chain may overflow in half precision
        common = (products + prior)[usable].sum() / (of_chains + prior)[usable].sum()
        prior = prior + _SHARE_IN_COMMON * of_chains
        scale = (products + prior * common) / (of_chains + prior)
        scale = torch.where(scale.isfinite(), scale, 1.0)
        shifts = {
            number: (t - scale * y) / n for number, (n, y, t, *_) in self.by_intercept.items() if number is not None
        }
        return scale, {number: shift for number, shift in shifts.items() if bool(shift.isfinite().all())}


def rescale(
    runs: Runs,
    groups: Sequence[WeightGroup],
    fitted: Mapping[int, Fitted],
    recorders: Mapping[int, Sequence[LayerRecorder]],
    order: Sequence[int],
    report: ProgressFunction,
    processes: ProcessGroup,
) -> dict[int, Fitted]:
    """The fitted factors with the last ones scaled, and the biases corrected once more.

    The first layer to run stays as it is: it sees what it was fitted to.

    Parameters
    ----------
    groups
        All weight groups of the model.
    fitted
        By number of the group.
    recorders
        By number of the group, those of its layers, which have recorded the runs on the batches kept.
    order
        The groups in the order in which they first run.
    report
        Called with (done, total, text) for batches.
    processes
        Those whose batches count, each with its own.
    """
    result = dict(fitted)
    if len(order) < 2:
        return result
    sums = {index: _Sums() for index in order[1:]}
    chains: dict[nn.Module, Forward] = {}
    scaled: list[LayerRecorder] = []
    left = 0

    def scaling(recorder: LayerRecorder, chain: DecomposedLayer, total: _Sums) -> Forward:
        def forward(input: Tensor) -> Tensor:  # noqa: A002  # Conv2d's own name for it
            nonlocal left
            response = chain(input)
            pair = recorder.pair(response, chain.bias)
            if pair is None:
                return cast(Tensor, response)
            total.add(recorder.intercept, *pair)
            left -= 1
            if left == 0:
                raise EndOfRun
            return _rescaled(response, chain.bias, recorder, total)

        return forward

    for index in order:
        new = chains_for(groups[index], fitted[index].factors, fitted[index].biases)
        chains.update(new)
        if index in sums:
            for recorder in recorders[index]:
                chains[recorder.module] = scaling(recorder, new[recorder.module], sums[index])
            scaled += recorders[index]

    def begin(batch: int) -> bool:
        nonlocal left
        report(len(groups), len(groups), f"batch {batch}")
        for recorder in scaled:
            recorder.begin(batch)
        left = sum(recorder.recorded(batch) for recorder in scaled)
        return left > 0

    with acting(chains):
        runs.again(begin)
    for index, total in sums.items():
        total.pool(processes)
        if total.by_intercept:
            scaled_here = functools.partial(_with_scale, groups[index], fitted[index], recorders[index], total)
            result[index] = processes.from_first(scaled_here)
    return result


def _rescaled(response: Tensor, bias: Tensor | None, recorder: LayerRecorder, total: _Sums) -> Tensor:
    """A response with the scale and shift that are known so far."""
    scale, shifts = total.solve()

    def by_channel(values: Tensor) -> Tensor:
        # Not every device knows float64.
        return recorder.spec.by_channel(values.to(response.dtype).to(response.device))

    scaled = response * by_channel(scale)
    if bias is None:
        return scaled
    before = bias.detach().cpu().double()
    after = _corrected(recorder, shifts)
    return scaled.add_(by_channel((before if after is None else after) - scale * before))


def _corrected(recorder: LayerRecorder, shifts: dict[int, Tensor]) -> Tensor | None:
    """The bias (out,) that a layer is to have, or None where it keeps the one it has."""
    if recorder.intercept not in shifts:
        return None
    return bias_of(recorder.module) + shifts[recorder.intercept]


def _with_scale(group: WeightGroup, fitted: Fitted, recorders: Sequence[LayerRecorder], total: _Sums) -> Fitted:
    scale, shifts = total.solve()
    *before, last = fitted.factors.weights
    with exact_matmul():
        scaled = (last.double() * scale.reshape(-1, *[1] * (last.dim() - 1))).to(last.dtype)
        weights = (*before, scaled)
        error = group.factors_of(fitted.factors.ranks, [weight.double() for weight in weights]).error
    biases = []
    for recorder, bias in zip(recorders, fitted.biases, strict=True):
        corrected = _corrected(recorder, shifts)
        biases.append(bias if corrected is None else corrected)
    return dataclasses.replace(
        fitted,
        factors=dataclasses.replace(fitted.factors, weights=weights, error=error),
        biases=tuple(biases),
        fit=dataclasses.replace(fitted.fit, scales=(float(scale.min()), float(scale.max()))),
    )
