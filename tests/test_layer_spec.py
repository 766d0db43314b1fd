"""A layer's geometry says what the layer of torch does, whatever its kind."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amct_pytorch.method_testing import GEOMETRIES
from amct_pytorch.tensor_decompose import (
    Calibration,
    DecompositionConfig,
    FixedRank,
    RatioRank,
    auto_decomposition,
    plan_decomposition,
)
from amct_pytorch.tensor_decompose.calibration.positions import sample_positions
from amct_pytorch.tensor_decompose.model.compose import composed_weight, ungrouped
from amct_pytorch.tensor_decompose.model.spec import LayerSpec, macs_over_calls, responses_at, spec_of

_SIZE = 9


def _layer(spec: LayerSpec) -> Any:
    layer = cast(Any, spec.build()).double()
    layer.weight = nn.Parameter(torch.randn(spec.weight_shape, dtype=torch.float64))
    if spec.bias:
        layer.bias = nn.Parameter(torch.randn(spec.out_channels, dtype=torch.float64))
    return layer.requires_grad_(False)


def _inputs(spec: LayerSpec) -> torch.Tensor:
    return torch.randn(2, spec.in_channels, *[_SIZE] * spec.axes, dtype=torch.float64)


@pytest.mark.parametrize("spec", GEOMETRIES, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_geometry_responses_and_macs_are_those_of_the_layer(spec: LayerSpec) -> None:
    layer, inputs = _layer(spec), _inputs(spec)
    assert spec_of(layer) == spec
    assert spec.kind == type(layer).__name__
    assert tuple(layer.weight.shape) == spec.weight_shape
    assert sum(parameter.numel() for parameter in layer.parameters()) == spec.parameters
    with FlopCounterMode(display=False) as counter:
        expected = layer(inputs)
    torch.testing.assert_close(spec.forward(inputs, layer.weight, layer.bias), expected)
    assert tuple(expected.shape[2:]) == spec.output_size(inputs.shape[2:])
    assert macs_over_calls([spec], [inputs.shape]) == counter.get_total_flops() // 2


@pytest.mark.parametrize("spec", GEOMETRIES, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_patches_are_what_the_responses_depend_on_dilation_and_edges_included(spec: LayerSpec) -> None:
    layer, inputs = _layer(spec), _inputs(spec)
    responses = layer(inputs)
    where = sample_positions(responses.shape, 40, seed=0)
    weight = ungrouped(layer.weight, spec.groups).flatten(1)
    found = spec.patches(inputs, where) @ weight.T + (0 if layer.bias is None else layer.bias)
    torch.testing.assert_close(found, responses_at(responses, where))


def test_inputs_without_a_batch_axis_or_with_several_count_as_what_they_are() -> None:
    conv, linear = LayerSpec(4, 6, (3, 3), padding=(1, 1)), LayerSpec(4, 6)
    assert macs_over_calls([conv], [(4, 8, 8)]) * 5 == macs_over_calls([conv], [(5, 4, 8, 8)])
    assert macs_over_calls([linear], [(4,)]) * 15 == macs_over_calls([linear], [(5, 3, 4)])
    assert conv.batched(torch.zeros(4, 8, 8)).shape == (1, 4, 8, 8)
    assert linear.batched(torch.zeros(5, 3, 4)).shape == (15, 4)


def test_kernels_on_the_same_axis_are_not_composed() -> None:
    stages = [LayerSpec(4, 4, (3, 1)), LayerSpec(4, 4, (3, 3))]
    with pytest.raises(ValueError, match="expected stages with kernels on different axes"):
        composed_weight([torch.zeros(stage.weight_shape) for stage in stages], stages)


@pytest.mark.parametrize(
    "options",
    [{"dilation": 2, "padding": 2}, {"dilation": (1, 3), "padding": "same"}, {"stride": 3}, {"kernel_size": (2, 4)}],
    ids=str,
)
def test_what_amct_keeps_is_split_by_any_rule_and_exactly_at_full_rank(options: dict[str, Any]) -> None:
    layer = nn.Conv2d(8, 12, **{"kernel_size": 3, **options}).double()
    model = nn.Sequential(layer)
    assert not plan_decomposition(model).layers[0].decompose
    full = min(8, 12) * min(layer.kernel_size)
    config = DecompositionConfig(rule="any", rank=FixedRank(full), require_gain=False)
    inputs = torch.randn(2, 8, 15, 15, dtype=torch.float64)
    expected = model(inputs)
    small, _ = auto_decomposition(model, config=config)
    torch.testing.assert_close(small(inputs), expected)
    torch.testing.assert_close(small[0].weight, layer.weight.detach())


@pytest.mark.parametrize("mode", ["whiten", "refit", "reconstruct"])
def test_a_dilated_layer_is_fitted_to_what_it_sees(mode: Any) -> None:
    model = nn.Sequential(nn.Conv2d(8, 12, 3, padding=3, dilation=3)).double()
    mix = torch.randn(8, 2, dtype=torch.float64)  # few of the channels' combinations are ever seen
    data = [torch.einsum("cl,nlhw->nchw", mix, torch.randn(8, 2, 12, 12, dtype=torch.float64)) for _ in range(3)]
    settings = {"rule": "any", "rank": RatioRank(0.3), "rank_multiple": 1}
    plan = plan_decomposition(model, DecompositionConfig(**settings), calibration=Calibration(data, mode=mode))  # type: ignore[arg-type]
    (layer,) = plan.layers
    assert layer.response_error < 0.9 * layer.plain_response_error
