"""The weights of a chain from the moments of the data: the start that promises most, then stage by stage.

The starts are splits: of the weight alone, in the metric of the data, and of the kernel adapted to inputs that are not
those of the original. From each on, the last stage is fitted by ridge-regularised least squares; of three or more,
the last two together by reduced-rank regression, where the last is pointwise. Then, of the best,
each stage before it in turn, with the others fixed, and the last once more. (X. Zhang, J. Zou, K. He, J. Sun,
"Accelerating very deep convolutional networks for classification and detection", TPAMI 2016, fit responses layer after
layer.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..methods.low_rank import balanced, evened
from ..model.compose import composed_weight
from ..model.spec import LayerSpec
from .descent import improve_stage
from .least_squares import Moments, Refit, refit, refit_last_two
from .stage_kernels import prefix_offsets
from .whitening import Root


@dataclass(frozen=True)
class Start:
    """Weights of the stages to begin with.

    Attributes
    ----------
    weights
        One for each stage.
    unknowns
        Numbers that the data had to find for each output; 0 for the plain split.
    patches
        How many of them each sampled position gave.
    """

    weights: Sequence[Tensor]
    unknowns: int = 0
    patches: int = 1


@dataclass(frozen=True)
class ChainFit:
    """Weights fitted to the data, and which of the data's figures made them.

    Attributes
    ----------
    weights
        One for each stage, float64.
    start
        What they began with.
    whitened
        Whether the second moment of what the first stage sees had a part in them.
    ridge
        Of the last least squares that changed the last stage; infinite where none did.
    """

    weights: tuple[Tensor, ...]
    start: Start
    whitened: bool
    ridge: float


def fit_chain(
    layer: LayerSpec,
    stages: Sequence[LayerSpec],
    starts: Sequence[Start],
    root: Root,
    total: Moments,
    halves: Sequence[Moments],
) -> ChainFit:
    """The weights of a chain of any length; never worse on these data than the last of the starts.

    Parameters
    ----------
    layer
        Geometry of the layer that the chain stands in for.
    stages
        Geometry of the chain.
    starts
        What to begin with.
    root
        Of the second moment of what the first stage sees.
    total, halves
        Moments of all the data, and of its halves.
    """
    offsets = prefix_offsets(layer, stages[:-1])
    groups = stages[-1].groups

    found: list[tuple[Refit, Start, list[Tensor]]] = []
    for start in starts:
        begin = [weight.double() for weight in start.weights]
        weights = [*begin]
        ridge = _fit_last_two(weights, stages, layer, total, halves)
        prefix = composed_weight(weights[:-1], stages[:-1])
        result = refit(prefix, weights[-1], offsets, total, halves, groups)
        if math.isinf(result.ridge):
            result = replace(result, ridge=ridge)
        found.append((result, start, weights[:-1]))
    # Of the last of the starts.
    limit = result.begin if math.isinf(ridge) else total.error(composed_weight(begin, stages).flatten(1))
    allowed = [item for item in found if item[0].error <= limit] or found[-1:]
    result, start, before_last = min(allowed, key=lambda item: item[0].expected)
    weights, whitened = [*before_last, result.last], start.unknowns > 0
    for index in range(len(stages) - 1):
        improved = improve_stage(weights, stages, index, layer, root, total, halves)
        if improved is not None:
            weights[index], whitened = improved, True
    prefix = composed_weight(weights[:-1], stages[:-1])
    again = refit(prefix, weights[-1], offsets, total, halves, groups)
    weights[-1] = again.last
    ridge = result.ridge if math.isinf(again.ridge) else again.ridge
    return ChainFit(_evened(weights, stages), start, whitened, ridge)


def _fit_last_two(
    weights: list[Tensor], stages: Sequence[LayerSpec], layer: LayerSpec, total: Moments, halves: Sequence[Moments]
) -> float:
    """Fit the last two of three or more stages together, where the very last is pointwise and neither has groups.

    Returns
    -------
    float
        The ridge; infinite where the weights stay as they were.
    """
    *before, core, last = stages
    if not before or math.prod(last.kernel_size) > 1 or core.groups > 1 or last.groups > 1:
        return math.inf
    prefix, offsets = composed_weight(weights[:-2], before), prefix_offsets(layer, before)
    *weights[-2:], ridge = refit_last_two(prefix, weights[-2], weights[-1], offsets, total, halves)
    return ridge


def _evened(weights: Sequence[Tensor], stages: Sequence[LayerSpec]) -> tuple[Tensor, ...]:
    """Weights of the same kernel whose entries are of similar size in every stage, as half precision needs them."""
    if len(weights) == 2 and all(stage.groups == 1 for stage in stages):
        first, last = weights
        turned = last.transpose(0, 1)
        rows, columns = balanced(first.flatten(1), turned.flatten(1))
        return rows.reshape(first.shape), columns.reshape(turned.shape).transpose(0, 1).contiguous()
    return evened(weights)
