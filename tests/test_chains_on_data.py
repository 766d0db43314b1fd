"""Chains of any length, fitted to the moments of what a layer of any kind sees and is to answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from amct_pytorch.tensor_decompose.calibration.chain_fit import Start, fit_chain
from amct_pytorch.tensor_decompose.calibration.least_squares import Moments, adapted_kernel, refit, refit_last_two
from amct_pytorch.tensor_decompose.calibration.moments import MomentSums
from amct_pytorch.tensor_decompose.calibration.positions import halves_of, sample_positions
from amct_pytorch.tensor_decompose.calibration.stage_kernels import prefix_offsets, seen_by_prefix
from amct_pytorch.tensor_decompose.calibration.whitening import shrunk_root
from amct_pytorch.tensor_decompose.methods import Method
from amct_pytorch.tensor_decompose.model.compose import composed_weight
from amct_pytorch.tensor_decompose.model.spec import LayerSpec, responses_at

from .split_methods import ChannelSplit, GroupedSplit, TwoRankSplit

LAYERS = {
    "Linear": (LayerSpec(24, 16), (6, 30)),
    "Conv1d, dilated": (LayerSpec(8, 12, (5,), padding=(4,), dilation=(2,)), (40,)),
    "Conv2d, dilated, strided": (LayerSpec(8, 12, (3, 3), (1, 2), (2, 0), (2, 1)), (12, 12)),
    "Conv2d, 'same'": (LayerSpec(8, 12, (2, 3), padding="same", padding_mode="reflect"), (9, 9)),
    "Conv3d": (LayerSpec(4, 6, (2, 3, 2), padding=(0, 1, 1)), (4, 7, 6)),
}
CHAINS = [
    (name, method, ranks)
    for name, (layer, _) in LAYERS.items()
    for method, ranks in ((ChannelSplit(), (3,)), (TwoRankSplit(), (2, 3)), (GroupedSplit(), (1,)))
    if method.impossible(layer) is None
]


def seen_and_wanted(layer: LayerSpec, sizes: Sequence[int], weight: Tensor) -> tuple[Tensor, Tensor]:
    """Correlated inputs that are not those of the original, and what the original answered to its own."""
    draw = torch.Generator().manual_seed(1)
    shape = (sizes[0], sizes[1], layer.in_channels) if layer.axes == 0 else (8, layer.in_channels, *sizes)
    inputs = torch.randn(shape, generator=draw, dtype=torch.float64)
    channel = -1 if layer.axes == 0 else 1
    mixer = torch.randn(layer.in_channels, layer.in_channels, generator=draw, dtype=torch.float64)
    mixer *= torch.linspace(1, 0.05, layer.in_channels, dtype=torch.float64)
    inputs = (inputs.movedim(channel, -1) @ mixer.T).movedim(-1, channel)
    shifted = 0.8 * inputs + 0.2 * inputs.roll(1, channel)
    return layer.batched(shifted), layer.forward(layer.batched(inputs), weight)


def moments_of(
    layer: LayerSpec, inputs: Tensor, wanted: Tensor, weight: Tensor
) -> tuple[Moments, tuple[Moments, Moments]]:
    """Uncentred, over all positions."""
    sums, where = MomentSums(), sample_positions(wanted.shape, math.inf, seed=0)
    second = halves_of(where, wanted.shape[2:], 0)
    for half, own in enumerate((~second, second)):
        rows = where[own.nonzero()[:, 0]]
        sums.add(half, layer.patches(inputs, rows), responses_at(wanted, rows), rows.scale, None)
    return sums.finish(weight.flatten(1))


@pytest.mark.parametrize(("name", "method", "ranks"), CHAINS, ids=lambda value: str(getattr(value, "name", value)))
def test_every_stage_of_a_chain_of_any_length_is_fitted_to_the_responses(
    name: str, method: Method, ranks: tuple[int, ...]
) -> None:
    layer, sizes = LAYERS[name]
    weight = torch.randn(layer.weight_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs, wanted = seen_and_wanted(layer, sizes, weight)
    total, halves = moments_of(layer, inputs, wanted, weight)
    stages = method.stages(layer, ranks)
    seen = [seen_by_prefix(part.second, prefix_offsets(layer, stages[:1])) for part in (total, *halves)]
    root = shrunk_root(seen[0], [(half.weight, second) for half, second in zip(halves, seen[1:], strict=True)])
    plain = method.split(weight, layer, ranks)
    starts = [Start(method.split(weight, layer, ranks, root.root), unknowns=len(root.root)), Start(plain)]
    found = fit_chain(layer, stages, starts, root, total, halves)

    def error(weights: Sequence[Tensor]) -> float:
        answers = inputs
        for stage, own in zip(stages, weights, strict=True):
            answers = stage.forward(answers, own)
        return float((answers - wanted).movedim(1, -1).square().sum(-1).mean())

    assert [part.shape for part in found.weights] == [stage.weight_shape for stage in stages]
    assert total.error(composed_weight(found.weights, stages).flatten(1)) == pytest.approx(error(found.weights), 1e-4)
    last_alone = []
    offsets = prefix_offsets(layer, stages[:-1])
    for start in starts:
        prefix = composed_weight(start.weights[:-1], stages[:-1])
        last = refit(prefix, start.weights[-1], offsets, total, halves, stages[-1].groups).last
        last_alone.append(total.error(composed_weight([*start.weights[:-1], last], stages).flatten(1)))
    assert error(found.weights) < 0.99 * min(last_alone) <= error(plain)
    assert math.isfinite(found.ridge)


def test_of_a_linear_layer_the_split_of_the_adapted_kernel_is_the_best_of_its_rank() -> None:
    layer, rank = LayerSpec(24, 16), 3
    weight = torch.randn(layer.weight_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs, wanted = seen_and_wanted(layer, (200, 60), weight)
    total, halves = moments_of(layer, inputs, wanted, weight)
    root = shrunk_root(total.second, [(half.weight, half.second) for half in halves])

    def error(kernel: Tensor) -> float:
        first, last = ChannelSplit().split(kernel, layer, (rank,), root.root)
        return total.error(last @ first)

    answers = torch.linalg.lstsq(inputs, wanted).solution
    left_out = torch.linalg.svdvals(inputs @ answers)[rank:].square().sum()
    least = float(left_out + (inputs @ answers - wanted).square().sum()) / len(inputs)
    assert error(adapted_kernel(weight, total, halves)) < 1.02 * least < 0.98 * error(weight)


def test_the_last_two_of_three_stages_together_are_the_best_map_of_their_rank() -> None:
    layer, sizes = LAYERS["Conv2d, dilated, strided"]
    weight = torch.randn(layer.weight_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs, wanted = seen_and_wanted(layer, sizes, weight)
    total, halves = moments_of(layer, inputs, wanted, weight)
    stages, ranks = TwoRankSplit().stages(layer, (4, 3)), (4, 3)
    first, core, last = TwoRankSplit().split(weight, layer, ranks)
    offsets = prefix_offsets(layer, stages[:1])

    def error(core: Tensor, last: Tensor) -> float:
        return total.error(composed_weight((first, core, last), stages).flatten(1))

    *fitted, ridge = refit_last_two(first, core, last, offsets, total, halves)
    everywhere = sample_positions(wanted.shape, math.inf, seed=0)
    seen = stages[1].patches(stages[0].forward(inputs, first), everywhere)
    answers = responses_at(wanted, everywhere)
    images = seen @ torch.linalg.lstsq(seen, answers).solution
    left_out = torch.linalg.svdvals(images)[ranks[1] :].square().sum()
    least = float(left_out + (images - answers).square().sum()) / len(seen)
    assert [part.shape for part in fitted] == [core.shape, last.shape]
    assert math.isfinite(ridge)
    assert error(*fitted) < 1.02 * least < 0.9 * error(core, last)


def test_the_last_two_stages_stay_where_a_half_of_the_data_asks_for_the_opposite_of_the_other() -> None:
    layer, sizes = LAYERS["Conv2d, dilated, strided"]
    weight = torch.randn(layer.weight_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total, (half, _) = moments_of(layer, *seen_and_wanted(layer, sizes, weight), weight)
    stages = TwoRankSplit().stages(layer, (4, 3))
    first, core, last = TwoRankSplit().split(weight, layer, (4, 3))
    answered = composed_weight((first, core, last), stages).flatten(1) @ half.second
    opposite = replace(half, cross=2 * answered - half.cross)
    found = refit_last_two(first, core, last, prefix_offsets(layer, stages[:1]), total, (half, opposite))
    assert found == (core, last, math.inf)
