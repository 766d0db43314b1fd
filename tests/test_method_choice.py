"""The choice of a method for each layer, the forms that methods take by geometry, and ranks for several at once."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from amct_pytorch.errors import AmctWarning, ConfigError, ConfigTypeError
from amct_pytorch.tensor_decompose import (
    Calibration,
    DecompositionConfig,
    EnergyRank,
    FixedRank,
    RatioRank,
    auto_decomposition,
    decompose_network,
    load_config,
    plan_decomposition,
    save_config,
)
from amct_pytorch.tensor_decompose.methods import Method, get_method
from amct_pytorch.tensor_decompose.methods.channel import Channel
from amct_pytorch.tensor_decompose.methods.separable import Separable
from amct_pytorch.tensor_decompose.methods.tucker2 import Tucker2
from amct_pytorch.tensor_decompose.model.compose import composed_weight, relative_error
from amct_pytorch.tensor_decompose.model.spec import LayerSpec, macs_of

from .models import snapshot

OURS: tuple[Method, ...] = (Separable(), Channel(), Tucker2())


@st.composite
def geometries(draw: st.DrawFn) -> LayerSpec:
    axes = draw(st.integers(0, 3))

    def on_axes(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(axes))

    same = draw(st.booleans())
    return LayerSpec(
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        on_axes(1, 3),
        stride=() if same else on_axes(1, 3),
        padding="same" if same and axes else on_axes(0, 2),
        dilation=on_axes(1, 2),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        bias=draw(st.booleans()),
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(geometries())
def test_full_ranks_are_exact_for_every_geometry_that_a_method_takes(layer: LayerSpec) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(layer.weight_shape, dtype=torch.float64, generator=generator)
    bias = torch.randn(layer.out_channels, dtype=torch.float64, generator=generator) if layer.bias else None
    inputs = torch.randn(2, layer.in_channels, *[7] * layer.axes, dtype=torch.float64, generator=generator)
    expected = layer.forward(inputs, weight, bias)
    for method in OURS:
        if layer.axes in method.axes and method.impossible(layer) is None:
            ranks = method.full_ranks(layer)
            stages, found = method.stages(layer, ranks), inputs
            for stage, part in zip(stages, method.split(weight, layer, ranks), strict=True):
                found = stage.forward(found, part, bias if stage is stages[-1] else None)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "layer", [LayerSpec(64, 64, (3, 3), dilation=(2, 2)), LayerSpec(64, 64, (3, 3), stride=(3, 3))]
)
def test_what_amct_keeps_is_separated_by_another_rule(layer: LayerSpec) -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, stride=layer.stride, dilation=layer.dilation))
    assert not plan_decomposition(model).layers[0].decompose
    plan = plan_decomposition(model, DecompositionConfig(rule="any"))
    assert plan.layers[0].mode == "SCFK"
    narrow = plan_decomposition(
        nn.Conv2d(8, 8, 3), DecompositionConfig(rule="any", rank=RatioRank(0.25), rank_multiple=4)
    )
    assert narrow.layers[0].decompose


@pytest.mark.parametrize(
    ("kernel", "channels", "mode", "first"),
    [
        ((3, 3, 3), (8, 16), "time-space", (3, 1, 1)),
        ((3, 3, 3), (16, 8), "space-time", (1, 3, 3)),
        ((5, 2, 2), (8, 8), "space-time", (1, 2, 2)),
        ((3, 3, 1), (8, 8), "time-space", (3, 1, 1)),
        ((1, 3, 5), (8, 8), "height-width", (1, 3, 1)),
        ((1, 3, 5), (8, 4), "width-height", (1, 1, 5)),
    ],
)
def test_a_conv3d_is_separated_into_time_and_space(
    kernel: tuple[int, ...], channels: tuple[int, int], mode: str, first: tuple[int, ...]
) -> None:
    layer = LayerSpec(*channels, kernel)
    method = Separable()
    stages = method.stages(layer, (4,))
    assert method.mode(layer) == mode
    assert stages[0].kernel_size == first
    assert "AMCT separates Conv2d alone" in str(method.unadvised(layer))
    assert method.impossible(LayerSpec(8, 8, (1, 1, 3))) is not None


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 64), (64, 4), (32, 32), (32, 40), (40, 32)])
def test_the_channel_split_takes_the_form_that_costs_less(inputs: int, outputs: int, strides: tuple[int, int]) -> None:
    layer = LayerSpec(inputs, outputs, (3, 3), stride=strides, padding=(1, 1))
    method = Channel()
    kernel_first = (LayerSpec(inputs, 4, (3, 3), strides, (1, 1)), LayerSpec(4, outputs, (1, 1)))
    kernel_last = (LayerSpec(inputs, 4, (1, 1)), LayerSpec(4, outputs, (3, 3), strides, (1, 1)))
    least = min(macs_of(stages, (12, 12)) for stages in (kernel_first, kernel_last))
    assert macs_of(method.stages(layer, (4,)), (12, 12)) == least
    form = "first" if method.stages(layer, (4,))[0].kernel_size == (3, 3) else "last"
    assert method.mode(layer) == f"channel, kernel {form}"
    assert method.mode(LayerSpec(8, 8, (1, 1))) == method.mode(LayerSpec(8, 8)) == "channel"


class Mixed(nn.Module):
    """A layer for each method: of low rank between heights and widths, in channels on both sides, pointwise, narrow."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])

        self.narrow = nn.Conv2d(3, 32, 3, padding=1)
        self.spatial = nn.Conv2d(32, 32, 3, padding=1)
        self.channels = nn.Conv2d(32, 48, 3, stride=2)
        self.pointwise = nn.Conv2d(48, 32, 1)
        spatial = torch.einsum("irh,orw->oihw", drawn(32, 6, 3), drawn(32, 6, 3))
        channels = torch.einsum("or,rshw,si->oihw", drawn(48, 16), drawn(16, 8, 3, 3), drawn(8, 32))
        with torch.no_grad():
            self.narrow.weight.copy_(drawn(32, 3, 3, 3))
            self.spatial.weight.copy_(spatial + 0.05 * drawn(32, 32, 3, 3))
            self.channels.weight.copy_(channels + 0.05 * drawn(48, 32, 3, 3))
            self.pointwise.weight.copy_(drawn(48, 32).T[:, :, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.channels(self.spatial(self.narrow(x).relu()).relu()).relu())


def batch(items: int = 1) -> torch.Tensor:
    return torch.randn(items, 3, 12, 12, generator=torch.Generator().manual_seed(1))


AUTO = DecompositionConfig(method="auto", rule="any", rank=RatioRank(0.12), rank_multiple=4)


def test_auto_takes_the_method_of_least_error_at_no_more_than_the_cost_of_the_first() -> None:
    model = Mixed().eval()
    check = snapshot(model)
    plan = plan_decomposition(model, AUTO, example_inputs=batch())
    check()
    narrow, spatial, channels, pointwise = plan.layers
    assert (spatial.method, channels.method, pointwise.method) == ("separable", "tucker2", "channel")
    assert narrow.decompose
    for layer in (spatial, channels):
        named = {
            name: plan_decomposition(
                model,
                DecompositionConfig(
                    method=name, rule="any", rank=rank, rank_multiple=4, layers=only(model, layer.name)
                ),
                example_inputs=batch(),
            )
            for name, rank in (
                ("separable", RatioRank(0.12)),
                ("channel", RatioRank(0.25)),
                ("tucker2", RatioRank(0.25)),
            )
        }
        first = next(one for one in named["separable"].layers if one.name == layer.name)
        assert layer.macs_after <= first.macs_after
        for other in named.values():
            rival = next(one for one in other.layers if one.name == layer.name)
            assert rival.macs_after > first.macs_after or layer.error <= rival.error + 1e-6
    assert channels.reason.startswith("tucker2: error ")
    assert " MACs; separable 0." in channels.reason
    assert channels.reason.endswith("; separable: 0.12 of the full rank 96")


def only(model: nn.Module, name: str) -> dict[str, Any]:
    return {other: False for other, _ in model.named_children() if other != name}


def test_auto_without_example_inputs_compares_at_equal_parameters() -> None:
    plan = plan_decomposition(Mixed(), AUTO)
    assert plan.layers[2].method == "tucker2"
    assert " parameters; separable 0." in plan.layers[2].reason


def test_auto_with_inputs_of_no_items_compares_at_equal_parameters() -> None:
    plan = plan_decomposition(Mixed(), AUTO, example_inputs=batch(0))
    assert [layer.ranks for layer in plan.layers] == [layer.ranks for layer in plan_decomposition(Mixed(), AUTO).layers]


def test_auto_by_amcts_rule_says_of_a_kept_layer_why_each_method_keeps_it() -> None:
    plan = plan_decomposition(Mixed(), DecompositionConfig(method="auto", rank=RatioRank(0.2)))
    assert plan.layers[0].reason == (
        "its 3 channels at the narrower end are below 64 (separable); "
        "its 3 channels at the narrower end are below 16 (channel, tucker2)"
    )
    assert plan.layers[1].method in ("channel", "tucker2")
    plan = plan_decomposition(nn.Conv2d(64, 64, 3, groups=2), DecompositionConfig(method="auto"))
    assert plan.layers[0].reason == "it has 2 groups (separable, channel, tucker2)"


def test_auto_may_be_a_rule_for_single_layers_and_others_keep_their_method() -> None:
    rules = {"channels": {"method": "auto"}, "pointwise": {"method": "channel"}}
    plan = plan_decomposition(
        Mixed(), DecompositionConfig(rule="any", rank=RatioRank(0.12), rank_multiple=4, layers=rules)
    )
    assert [layer.method for layer in plan.layers[1:]] == ["separable", "tucker2", "channel"]


@pytest.mark.parametrize(
    ("mode", "rank"),
    [
        ("whiten", RatioRank(0.12)),
        ("whiten", EnergyRank(0.7)),
        pytest.param("refit", EnergyRank(0.7), marks=pytest.mark.slow),
        pytest.param("reconstruct", RatioRank(0.12), marks=pytest.mark.slow),
        pytest.param("reconstruct", EnergyRank(0.7), marks=pytest.mark.slow),
    ],
)
def test_auto_with_calibration_fits_what_it_chooses(mode: Any, rank: Any) -> None:
    model = Mixed().eval()
    config = DecompositionConfig(method="auto", rule="any", rank=rank, rank_multiple=4)
    plan = plan_decomposition(model, config, calibration=Calibration(batch(96).split(32), mode=mode))
    assert plan.layers[3].method == "channel"
    assert all(layer.fit.mode == mode for layer in plan.layers if layer.decompose)
    small, _ = plan.apply(copy.deepcopy(model))
    assert 0 < relative_error(small(batch(8)), model(batch(8)).detach()) < 1


def test_without_memory_for_moments_of_whole_patches_auto_goes_by_the_weights() -> None:
    model = Mixed().eval()
    calibration = Calibration(batch(96).split(32), memory=0)
    found, expected = (
        [(layer.method, layer.ranks) for layer in plan_decomposition(model, AUTO, **given).layers]
        for given in ({"calibration": calibration}, {})
    )
    assert found == expected


def test_auto_in_a_metric_chooses_what_the_weights_alone_would_not() -> None:
    layer = nn.Conv2d(16, 16, 3, bias=False).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the channels that are seen are of low rank in space, the others in channels
        seen = torch.einsum("irh,orw->oihw", *(torch.randn(size, 4, 3, generator=generator) for size in (8, 16)))
        rest = torch.einsum(
            "or,rihw->oihw", *(torch.randn(size, generator=generator) for size in ((16, 2), (2, 8, 3, 3)))
        )
        layer.weight.copy_(torch.cat([seen, 3 * rest], 1))
    inputs = torch.randn(64, 16, 8, 8, generator=generator, dtype=torch.float64)
    inputs[:, 8:] *= 1e-3
    config = DecompositionConfig(method="auto", rule="any", rank=FixedRank(4), rank_multiple=1)
    plain = plan_decomposition(nn.Sequential(layer), config).layers[0]
    fitted = plan_decomposition(nn.Sequential(layer), config, calibration=Calibration(inputs.split(16))).layers[0]
    assert plain.method != "separable"
    assert fitted.method == "separable"


def test_an_auto_plan_goes_through_file_and_rebuild(tmp_path: Path) -> None:
    original, path = Mixed().eval(), tmp_path / "info.json"
    small, changes = auto_decomposition(copy.deepcopy(original), path, config=AUTO)
    rebuilt, again = decompose_network(copy.deepcopy(original), path)
    rebuilt.load_state_dict(small.state_dict())
    assert again == changes
    assert torch.equal(rebuilt(batch()), small(batch()))


class Shared(nn.Module):
    """Two layers of one weight, which the channel split takes in different forms."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(32, 24, 3, padding=1)
        self.other = nn.Conv2d(32, 24, 3, padding=1, stride=4)
        self.other.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(x) + self.one(x)[..., ::4, ::4]


def test_layers_that_share_a_weight_are_split_in_one_form_or_kept() -> None:
    model = Shared().eval()
    assert Channel().mode(LayerSpec(32, 24, (3, 3))) != Channel().mode(LayerSpec(32, 24, (3, 3), stride=(4, 4)))
    kept = plan_decomposition(model, DecompositionConfig(method="channel", rank=FixedRank(4)))
    assert {layer.reason for layer in kept.layers} == {
        "its weight is also that of a layer with another stride, which is split in another form"
    }
    config = DecompositionConfig(method="auto", rule="any", rank=FixedRank(4), rank_multiple=1)
    small, changes = auto_decomposition(copy.deepcopy(model), config=config)
    assert set(changes) == {"one", "other"}
    x = torch.randn(1, 32, 8, 8)
    assert small(x).shape == model(x).shape


def test_a_file_that_splits_layers_of_one_weight_in_two_forms_unties_them(tmp_path: Path) -> None:
    apart, path = Shared(), tmp_path / "info.json"
    apart.other.weight = nn.Parameter(apart.one.weight.detach().clone())
    apart, _ = auto_decomposition(apart, path, config=DecompositionConfig(method="channel", rank=FixedRank(4)))
    with pytest.warns(AmctWarning, match="their weights are apart from now on"):
        rebuilt, _ = decompose_network(Shared(), path)
    rebuilt.load_state_dict(apart.state_dict())
    x = torch.randn(1, 32, 8, 8)
    assert torch.equal(rebuilt(x), apart(x))


def test_ranks_are_given_one_for_each_of_a_split() -> None:
    config = DecompositionConfig(method="tucker2", rank=FixedRank({"channels": (6, 10), "spatial": [5, 5]}))
    plan = plan_decomposition(Mixed(), config)
    assert [layer.ranks for layer in plan.layers] == [None, (5, 5), (6, 10), None]
    assert plan_decomposition(nn.Conv2d(16, 16, 3), DecompositionConfig(method="tucker2", rank=RatioRank(0.5)))


@pytest.mark.parametrize(
    ("method", "ranks", "message"),
    [
        (
            "tucker2",
            (8,),
            r"layer 'spatial': FixedRank gives 1 ranks \[8\], but the split has 2 ranks, of \[32, 32\] at",
        ),
        ("channel", (8, 8), r"gives 2 ranks \[8, 8\], but the split has a single rank, of 32 at most \(channel\)"),
        ("tucker2", (8, 40), r"asks for rank 40, .* rank 32 at most for number 2 of its 2 ranks: give 32 or less"),
        ("auto", (8, 8), r"a single rank, of 96 at most \(separable\)"),
    ],
)
def test_impossible_ranks_name_the_layer_the_method_and_what_is_possible(
    method: str, ranks: tuple[int, ...], message: str
) -> None:
    model = Mixed()
    check = snapshot(model)
    config = DecompositionConfig(method=method, rule="any", rank=FixedRank({"spatial": ranks}))
    with pytest.raises(ConfigError, match=message):
        auto_decomposition(model, config=config)
    check()


@pytest.mark.parametrize("ranks", [(), (0, 4), [3, -1]])
def test_ranks_below_one_are_refused(ranks: Any) -> None:
    with pytest.raises(ConfigError, match="FixedRank: the rank"):
        FixedRank(ranks)


@pytest.mark.parametrize("ranks", ["64", (4, "4"), (4, True), 4.0, None])
def test_ranks_of_a_wrong_type_are_refused(ranks: Any) -> None:
    with pytest.raises(ConfigTypeError, match="FixedRank: the rank"):
        FixedRank(ranks)


def test_several_ranks_and_auto_survive_a_file_of_settings(tmp_path: Path) -> None:
    config = DecompositionConfig(
        method="auto",
        rank=FixedRank({"a": (4, 8), "b": 3}),
        layers={"a": {"method": "tucker2", "rank": FixedRank((2, 3))}},
    )
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config


def test_a_misspelt_method_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tucker2'"):
        plan_decomposition(nn.Conv2d(64, 64, 3), DecompositionConfig(method="tucker"))
    with pytest.raises(ConfigError, match="did you mean 'auto'"):
        plan_decomposition(nn.Conv2d(64, 64, 3), DecompositionConfig(method="autos"))


def test_golden_modes_and_full_ranks_of_conv2d_are_amcts() -> None:
    for (inputs, outputs), kernel in itertools.product([(64, 128), (128, 64), (64, 64)], [(3, 5), (5, 3), (3, 3)]):
        layer = LayerSpec(inputs, outputs, kernel)
        mode = ("SC" if outputs >= inputs else "FC") + ("FK" if kernel[0] <= kernel[1] else "SK")
        assert get_method("separable").mode(layer) == mode
        assert get_method("separable").full_ranks(layer) == (min(inputs, outputs) * min(kernel),)
        stages = get_method("separable").stages(layer, (16,))
        height_first = mode in ("SCFK", "FCSK")
        assert stages[0].kernel_size == ((kernel[0], 1) if height_first else (1, kernel[1]))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("method", OURS, ids=lambda method: method.name)
def test_weights_of_any_size_are_split_evenly(method: Method, scale: float) -> None:
    layer = LayerSpec(6, 8, (3, 3))
    weight = torch.randn(layer.weight_shape, generator=torch.Generator().manual_seed(0))
    ranks = tuple(full // 2 for full in method.full_ranks(layer))
    parts, scaled = (method.split(one, layer, ranks) for one in (weight, scale * weight))
    each = scale ** (1 / len(parts))
    for part, found in zip(parts, scaled, strict=True):
        torch.testing.assert_close(found / each, part, rtol=1e-3, atol=1e-4)


def test_a_composed_split_is_the_kernel_it_says() -> None:
    layer = LayerSpec(6, 8, (3, 3, 2))
    weight = torch.randn(layer.weight_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for method in OURS:
        ranks = tuple(max(1, full // 2) for full in method.full_ranks(layer))
        kernel = composed_weight(method.split(weight, layer, ranks), method.stages(layer, ranks))
        assert relative_error(kernel, weight) <= method.spectrum(weight, layer).error(ranks) * (1 + 1e-9)
