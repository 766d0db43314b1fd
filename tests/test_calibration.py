"""Factors fitted to data: the guarantee of each mode, on every geometry, and that the model is not changed."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from amct_pytorch.demo import accuracy, load_digits_tensors, load_pretrained
from amct_pytorch.errors import AmctWarning, ConfigError, ConfigTypeError, InfoFileError, InputsError, LayerError
from amct_pytorch.tensor_decompose import (
    Calibration,
    DecompositionConfig,
    DecompositionPlan,
    EnergyRank,
    FixedRank,
    LayerPlan,
    RatioRank,
    auto_decomposition,
    decompose_network,
    plan_decomposition,
)
from amct_pytorch.tensor_decompose.calibration.moments import MomentSums
from amct_pytorch.tensor_decompose.calibration.positions import positions_that_fit, sample_positions
from amct_pytorch.tensor_decompose.methods.weight_group import WeightGroup
from amct_pytorch.tensor_decompose.model.layers import survey
from amct_pytorch.tensor_decompose.model.spec import spec_of

from .models import TwoConvs, conv, image, snapshot

# Constant images, and others that are no more than that, are among the inputs tried.
pytestmark = pytest.mark.filterwarnings("ignore:.* calibration inputs are the same as others before them")

MODES = ["whiten", "refit", "reconstruct"]
# Refit has its moments in common with whiten, and its least squares with reconstruct.
REFIT = pytest.param("refit", marks=pytest.mark.slow)
EACH_MODE = ["whiten", REFIT, "reconstruct"]
LOW = DecompositionConfig(rank=FixedRank(12))


def batches(count: int = 3, *shape: int) -> list[Tensor]:
    """Batches of fixed smooth images, whose neighbouring pixels correlate as in natural images."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(count, *(shape or (6, 3, 16, 16)), generator=generator)
    return [functional.avg_pool2d(item, 3, 1, 1) + 0.3 for item in noise]


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """Options of a convolution that the separable split takes, of either orientation."""
    channels = draw(st.sampled_from([(64, 64), (64, 72), (72, 64)]))
    kernel = draw(st.sampled_from([(3, 3), (3, 5), (4, 3), (3, 4)]))
    padding_mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    stride = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]))
    padding: object = draw(st.sampled_from([(0, 0), (1, 0), (1, 2)]))
    if stride == (1, 1):
        padding = draw(st.sampled_from([padding, "same", "valid"]))
    return {
        "in_channels": channels[0],
        "out_channels": channels[1],
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "padding_mode": padding_mode,
        "bias": draw(st.booleans()),
    }


def data(seed: int, kind: str, count: int = 4, height: int = 6) -> Tensor:
    """Inputs of 64 or 72 channels, of different kinds: noise, few directions, a large mean, dead channels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 72, height, 7, generator=generator)
    if kind == "few":
        x = (torch.randn(72, 5, generator=generator) @ x[:, :5].flatten(2)).reshape(x.shape)
    elif kind == "offset":
        x += 5
    elif kind == "dead":
        x[:, 5:40] = 0
    elif kind == "constant":
        x = torch.ones_like(x)
    return x


KINDS = st.sampled_from(["noise", "few", "offset", "dead", "constant"])


def fitted(layer: nn.Conv2d, x: Tensor, rank: int, mode: str, *, add_bias: bool = True) -> nn.Module:
    """The chain that replaces a layer calibrated on one batch."""
    config = DecompositionConfig(rank=FixedRank(rank), require_gain=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "too few calibration data", AmctWarning)
        calibration = Calibration([x], mode=mode, add_bias=add_bias)
        plan = plan_decomposition(nn.Sequential(layer), config, calibration=calibration)
    return plan.apply(nn.Sequential(layer))[0]


@pytest.mark.slow
@settings(max_examples=40)
@given(
    options=geometries(),
    kind=KINDS,
    mode=st.sampled_from(["refit", "reconstruct"]),
    seed=st.integers(0, 99),
    add_bias=st.booleans(),
)
def test_on_the_data_the_response_is_never_further_off_than_the_plain_splits(
    options: dict[str, Any], kind: str, mode: str, seed: int, add_bias: bool
) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(**options)
    x = data(seed, kind)[:, : layer.in_channels]
    rank = 1 + seed % 40
    with torch.no_grad():
        expected = layer(x)
        plain = auto_decomposition(
            nn.Sequential(layer), config=DecompositionConfig(rank=FixedRank(rank), require_gain=False)
        )[0](x)
        found = fitted(layer, x, rank, mode, add_bias=add_bias)(x)
    scale = float(expected.square().sum())
    assert float((found - expected).square().sum()) <= float((plain - expected).square().sum()) * 1.0001 + 1e-9 * scale


def first_axis_objective(layer: nn.Conv2d, chain: nn.Module, x: Tensor, centred: bool) -> float:
    """The mean over the last axis' offsets of ‖Eᵀ·p‖², p the first-axis patches there, by plain loops."""
    height, width = layer.kernel_size
    first_is_height = chain[0].kernel_size == (height, 1)
    whole = patches_of(layer, x)
    error = (chain.weight - layer.weight).double()
    total = 0.0
    places = width if first_is_height else height
    for own in range(places):
        kernel = error[:, :, :, own] if first_is_height else error[:, :, own]
        for other in range(places):
            p = whole[:, :, :, other] if first_is_height else whole[:, :, other]
            p = p.flatten(1)
            if centred:
                p = p - p.mean(0)
            total += float((p @ kernel.flatten(1).T).square().sum())
    return total


def patches_of(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Patches (n, in, kh, kw), found by convolving with one-hot kernels."""
    size = math.prod(layer.weight.shape[1:])
    hot = nn.Conv2d(
        layer.in_channels,
        size,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        padding_mode=layer.padding_mode,
        bias=False,
    ).double()
    hot.weight.data = torch.eye(size, dtype=torch.float64).reshape(hot.weight.shape)
    with torch.no_grad():
        return hot(x.double()).permute(0, 2, 3, 1).reshape(-1, *layer.weight.shape[1:])


@settings(max_examples=20)
@example(
    options={"in_channels": 64, "out_channels": 64, "kernel_size": (3, 3), "stride": (2, 1), "bias": True},
    kind="constant",  # centred, only rounding errors remain
    seed=0,
    add_bias=False,
)
@given(options=geometries(), kind=KINDS, seed=st.integers(0, 99), add_bias=st.booleans())
def test_whiten_is_never_worse_than_the_plain_split_for_what_it_minimises(
    options: dict[str, Any], kind: str, seed: int, add_bias: bool
) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(**options)
    x = data(seed, kind, 2)[:, : layer.in_channels]
    rank = 1 + seed % 40
    with torch.no_grad():
        config = DecompositionConfig(rank=FixedRank(rank), require_gain=False)
        plain_chain = auto_decomposition(nn.Sequential(layer), config=config)[0][0]
        chain = fitted(layer, x, rank, "whiten", add_bias=add_bias)[0]
        centred = chain[1].bias is not None
        plain, found = (first_axis_objective(layer, split, x, centred) for split in (plain_chain, chain))
    scale = float((patches_of(layer, x).flatten(1) @ layer.weight.double().flatten(1).T).square().sum().detach())
    assert found <= plain * 1.0001 + 1e-8 * scale


@settings(max_examples=20)
@given(options=geometries(), kind=KINDS, mode=st.sampled_from(MODES), seed=st.integers(0, 99))
def test_at_full_rank_every_mode_reproduces_the_layer(options: dict[str, Any], kind: str, mode: str, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(**options)
    full = min(layer.in_channels, layer.out_channels) * min(layer.kernel_size)
    chain = fitted(layer, data(seed, kind)[:, : layer.in_channels], full, mode)
    other = torch.randn(2, layer.in_channels, 8, 9)  # not the inputs it was fitted to
    with torch.no_grad():
        torch.testing.assert_close(chain(other), layer(other), rtol=0, atol=3e-4)


@pytest.mark.parametrize("channels", [(64, 96), (96, 64)])
def test_for_white_inputs_whiten_gives_the_plain_splits_product(channels: tuple[int, int]) -> None:
    layer = conv(*channels, padding=0, bias=False)
    white = torch.eye(channels[0] * 9).reshape(-1, channels[0], 3, 3) * 3  # every patch once
    chain = fitted(layer, white, 20, "whiten", add_bias=False)[0]
    plain = auto_decomposition(nn.Sequential(layer), config=DecompositionConfig(rank=FixedRank(20)))[0][0]
    torch.testing.assert_close(chain.weight, plain.weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": (1, 2), "stride": (2, 1)},
        {"kernel_size": (4, 3), "padding": "same"},
        {"kernel_size": (3, 6), "padding": "same"},
        {"kernel_size": 5, "padding": "valid", "stride": 2},
        {"kernel_size": 3, "padding": 0},
    ],
)
def test_patches_are_those_that_the_layer_sees_edges_included(padding_mode: str, options: dict[str, Any]) -> None:
    layer = nn.Conv2d(3, 5, padding_mode=padding_mode, **options)
    x = image(2, 3, 9, 8)
    expected = layer(x)
    where = sample_positions(expected.shape, 1e9, seed=0)
    found = spec_of(layer).patches(x, where) @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(found, expected.permute(0, 2, 3, 1).reshape(-1, 5))


def test_sampled_positions_are_spread_evenly_the_same_each_time_and_stand_for_all() -> None:
    where = sample_positions((4, 7, 10, 10), 40, seed=1)
    again = sample_positions((4, 7, 10, 10), 40, seed=1)
    assert torch.equal(where.places[0], again.places[0])
    assert len(where.item) == 40
    assert where.scale == 10
    assert where.item.bincount().tolist() == [10] * 4
    assert len({*zip(where.item.tolist(), *(place.tolist() for place in where.places), strict=True)}) == 40


def test_moments_of_all_the_data_follow_from_those_of_its_halves() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(count, 6, generator=generator, dtype=torch.float64) + shift
        for count, shift in ((50, 0.0), (30, 3.0), (20, -2.0))
    ]
    kernel = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    sums = MomentSums()
    for half, (part, intercept) in enumerate(zip(parts, (0, 0, 1), strict=True)):
        sums.add(half % 2, part, None, 1.0, intercept)
    of_first, _ = sums.seen_by_first(torch.arange(6)[:, None])
    total, _ = sums.finish(kernel)
    centred = torch.cat([part - part.mean(0) for part in (torch.cat(parts[:2]), parts[2])])
    expected = centred.T @ centred / len(centred)
    torch.testing.assert_close(of_first, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total.second, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total.cross, kernel @ expected, rtol=1e-4, atol=1e-4)
    assert total.energy == pytest.approx(float((kernel @ expected * kernel).sum()), rel=1e-4)
    assert total.error(kernel) <= total.rounding
    again, _ = sums.finish(kernel)
    assert torch.equal(again.second, total.second)


def test_least_squares_gets_twelve_positions_an_unknown_and_fewer_where_kept_responses_take_too_much() -> None:
    model = nn.Sequential(*(conv() for _ in range(4)))
    groups = [WeightGroup((layer,), DecompositionConfig()) for layer in survey(model).layers]
    bytes_kept = 4 * (12 * 64 * 9) * 64 * 4

    def each(memory: int, mode: Any, *, keeping: bool) -> set[float]:
        return {*positions_that_fit(groups, dict.fromkeys(range(4), mode), memory, keeping=keeping).values()}

    assert each(0, "refit", keeping=False) == {12 * 64 * 9}
    assert each(bytes_kept, "reconstruct", keeping=True) == {12 * 64 * 9}
    assert each(bytes_kept // 2, "reconstruct", keeping=True) == {6 * 64 * 9}
    assert each(0, "reconstruct", keeping=True) == each(2**31, "whiten", keeping=False) == {2048}


@pytest.mark.parametrize("mode", ["refit", "reconstruct"])
def test_a_large_feature_map_is_sampled_evenly_to_as_many_positions_as_a_small_one(mode: str) -> None:
    samples = []
    for height in (200, 300):
        model = nn.Sequential(conv(8, 8)).eval()
        config = DecompositionConfig(rank=FixedRank(3), rank_multiple=1, rule="any")
        plan = plan_decomposition(model, config, calibration=Calibration([data(0, "few", 2, height)[:, :8]], mode=mode))
        samples.append(plan.layers[0].fit.samples)
    assert samples[0] == samples[1]


@pytest.mark.parametrize("mode", EACH_MODE)
def test_the_model_is_left_alone_and_the_plan_is_the_same_each_time(mode: str) -> None:
    class _Noisy(TwoConvs):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.norm.training
            return super().forward(functional.dropout(x + torch.rand(()), 0.5, self.training))

    model = _Noisy()
    model.norm.eval()
    model.stem.weight.requires_grad_(False)
    check = snapshot(model)
    generator, given_batches = torch.get_rng_state(), batches()
    before = [batch.clone() for batch in given_batches]
    first, second = (
        plan_decomposition(model, LOW, calibration=Calibration(given_batches, mode=mode)) for _ in range(2)
    )
    check()
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(map(torch.equal, before, given_batches))
    assert not any("forward" in vars(module) for module in model.modules())
    assert [layer.response_error for layer in first.layers] == [layer.response_error for layer in second.layers]
    for one, other in zip(first.layers, second.layers, strict=True):
        assert all(map(torch.equal, one.factors, other.factors))


@pytest.mark.parametrize("mode", EACH_MODE)
def test_online_and_offline_are_equal_bit_for_bit_with_corrected_biases(mode: str, tmp_path: Path) -> None:
    model, blank = TwoConvs().eval(), TwoConvs().eval()
    bias = model.conv1.bias.detach().clone()
    model, changes = auto_decomposition(
        model, tmp_path / "info.json", config=LOW, calibration=Calibration(batches(), mode=mode)
    )
    assert list(changes) == ["conv1", "conv2"]
    assert not torch.equal(model.conv1.bias, bias)
    assert model.conv1[1].bias.requires_grad
    blank, _ = decompose_network(blank, tmp_path / "info.json")
    blank.load_state_dict(model.state_dict())
    assert torch.equal(blank(image()), model(image()))


class WithoutBiases(nn.Module):
    """As most networks with batch normalisation are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.conv1, self.conv2 = conv(bias=False), conv(64, 128, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(self.stem(x).relu()).relu())


@pytest.mark.parametrize("mode", EACH_MODE)
def test_a_layer_without_a_bias_gets_one_that_sets_the_mean_response_right(mode: str, tmp_path: Path) -> None:
    model, info = WithoutBiases().eval(), tmp_path / "info.json"
    x = batches(1)
    plan = plan_decomposition(model, LOW, calibration=Calibration(x, mode=mode))
    assert plan.explain().text(width=400).count("bias added") == 2
    assert "bias added: 2 layers: conv[12]." in plan.text(width=400)
    original = copy.deepcopy(model)
    plan.apply(model, info)
    assert sum(parameter.numel() for parameter in model.parameters()) == plan.parameters_after
    for name, planned in zip(["conv1", "conv2"], plan.layers[1:], strict=True):
        chain = model.get_submodule(name)
        assert chain.added_bias
        assert sum(parameter.numel() for parameter in chain.parameters()) == planned.parameters_after
        with torch.no_grad():
            chain[1].bias.zero_()
    with torch.no_grad():
        wanted = original.conv1(original.stem(x[0]).relu()).mean((0, 2, 3))
        without = model.conv1(model.stem(x[0]).relu()).mean((0, 2, 3))
        model.conv1[1].bias.copy_(plan.layers[1].bias)
        found = model.conv1(model.stem(x[0]).relu()).mean((0, 2, 3))
    assert (found - wanted).norm() < 0.2 * (without - wanted).norm()


def test_a_network_with_added_biases_is_rebuilt_bit_for_bit(tmp_path: Path) -> None:
    model, info = WithoutBiases().eval(), tmp_path / "info.json"
    one = dataclasses.replace(LOW, layers={"conv2": False})
    auto_decomposition(model, config=one, calibration=Calibration(batches()))
    auto_decomposition(model, info, config=LOW)  # the second without data: the file has both
    entries = json.loads(info.read_text())
    assert [(entry["version"], entry.get("added_bias")) for entry in entries] == [(2, True), (1, None)]
    with torch.device("meta"):
        skeleton = WithoutBiases()
    for blank in (WithoutBiases(), skeleton):
        blank, _ = decompose_network(blank.eval(), info)
        assert not blank.conv1[1].bias.is_meta or blank is skeleton
        blank.load_state_dict(model.state_dict(), assign=True)
        assert torch.equal(blank(image()), model(image()))
        assert blank.conv1.added_bias
        assert decompose_network(blank, info) == (blank, {})  # matches the file
    with pytest.raises(InfoFileError, match="'conv1' is decomposed already, .* expected rank 12 and an added bias"):
        decompose_network(auto_decomposition(WithoutBiases(), config=LOW)[0], info)
    with pytest.raises(InfoFileError, match="'conv1'.*, added_bias: expected false, as the model's layer has a bias"):
        decompose_network(TwoConvs(), info)


@pytest.mark.parametrize("mode", EACH_MODE)
def test_the_device_that_new_tensors_go_to_makes_no_difference(mode: str, tmp_path: Path) -> None:
    """Users of an accelerator set it as the default device; what is done on the host stays there."""
    calibration = Calibration(batches(), mode=mode)
    model, blank = WithoutBiases().eval(), WithoutBiases().eval()
    twin = copy.deepcopy(model)
    expected = auto_decomposition(model, config=LOW, calibration=calibration)[0].state_dict()
    torch.set_default_device("meta")
    try:
        auto_decomposition(twin, tmp_path / "info.json", config=LOW, calibration=calibration)
        decompose_network(blank, tmp_path / "info.json")
    finally:
        torch.set_default_device(None)
    for found in (twin.state_dict(), blank.state_dict()):
        assert found.keys() == expected.keys()
        assert {value.device.type for value in found.values()} == {"cpu"}
    assert all(torch.equal(value, expected[key]) for key, value in twin.state_dict().items())


@pytest.mark.parametrize("mode", EACH_MODE)
def test_a_layer_stays_without_a_bias_where_none_may_be_added(mode: str, tmp_path: Path) -> None:
    model = WithoutBiases()
    calibration = Calibration(batches(), mode=mode, add_bias=False)
    plan = plan_decomposition(model, LOW, calibration=calibration)
    plan.apply(model, tmp_path / "info.json")
    assert model.conv1.bias is None
    assert "added_bias" not in (tmp_path / "info.json").read_text()
    assert sum(parameter.numel() for parameter in model.parameters()) == plan.parameters_after


def test_an_added_bias_is_of_the_kind_of_the_weight() -> None:
    model = WithoutBiases().to(torch.bfloat16, memory_format=torch.channels_last)
    model.conv1.weight.requires_grad_(False)
    model.conv1.weight.mark = "of weights"
    auto_decomposition(model, config=LOW, calibration=Calibration([x.bfloat16() for x in batches()]))
    frozen, free = model.conv1[1].bias, model.conv2[1].bias
    assert frozen.dtype == free.dtype == torch.bfloat16
    assert (frozen.requires_grad, free.requires_grad) == (False, True)
    assert not hasattr(frozen, "mark")
    assert isinstance(free, nn.Parameter)


def test_layers_that_share_a_weight_get_a_bias_each() -> None:
    class _Tied(WithoutBiases):
        def __init__(self) -> None:
            super().__init__()
            self.again = conv(bias=False)
            self.again.weight = self.conv1.weight

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(self.stem(x).relu()).relu()
            return self.conv2(self.again(x + 1).relu())

    model = _Tied().eval()
    plan = plan_decomposition(model, LOW, calibration=Calibration(batches()))
    plan.apply(model)
    assert model.conv1[1].weight is model.again[1].weight
    assert not torch.equal(model.conv1[1].bias, model.again[1].bias)
    assert sum(parameter.numel() for parameter in model.parameters()) == plan.parameters_after


def structured() -> TwoConvs:
    """A network whose inputs to the decomposed layers are far from white."""
    torch.manual_seed(5)
    model = TwoConvs().eval()
    model.stem.weight.data[8:] *= 0.1
    model.conv1.weight.data[:, 8:] *= 0.5
    return model


def test_a_plan_reports_the_fit_that_made_the_factors_and_not_one_that_had_nothing_left_to_gain() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)).eval()
    x = torch.randn(12, 64, 8, 8)
    x = (torch.randn(64, 8) @ x[:, :8].flatten(2)).reshape(x.shape) + 0.1 * x
    calibration = Calibration(x.split(4), mode="reconstruct")
    refitted = plan_decomposition(model, LOW, calibration=calibration).layers[1].fit
    split_alone = plan_decomposition(model[:1], LOW, calibration=calibration).layers[0].fit  # nothing before is cut
    assert split_alone.ridge is None  # least squares had nothing to add to the whitened split
    assert split_alone.unknowns == 64 * 3
    assert split_alone.shrinkage < 0.1
    assert 0 < refitted.ridge < 100
    assert refitted.unknowns == 12 * 3 + 1
    assert "inf" not in str(split_alone) + str(refitted)


def test_where_the_plain_factors_are_kept_the_plan_says_that_the_data_were_not_trusted() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)).eval()
    noise = torch.randn(4, 64, 8, 8)
    (layer,) = plan_decomposition(model, LOW, calibration=Calibration([noise], mode="refit")).layers
    assert (layer.fit.ridge, layer.fit.shrinkage, layer.fit.condition) == (math.inf, 1, 1)
    plain = plan_decomposition(model, LOW).layers[0].factors
    composed = (torch.einsum("riab,orcd->oiacbd", *factors) for factors in (layer.factors, plain))
    torch.testing.assert_close(*composed, rtol=0, atol=1e-6)


def test_each_mode_keeps_more_of_the_outputs_than_the_one_before() -> None:
    torch.manual_seed(5)
    blocks = [layer for _ in range(4) for layer in (conv(bias=False), nn.BatchNorm2d(64), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 64, 3), *blocks)
    for _ in range(20):
        model(batches(1)[0])  # statistics of the batch normalisations
    model.eval()
    *data, held, other = batches(12)
    errors = []
    for mode in MODES:
        twin = copy.deepcopy(model)
        plan = plan_decomposition(twin, LOW, calibration=Calibration(data, mode=mode))
        assert plan.outcome.held_out
        assert plan.outcome.batches == 2
        assert plan.outcome.output_error < plan.outcome.plain_output_error
        for layer in plan.layers[1:]:
            assert layer.response_error < layer.plain_response_error
            assert layer.fit.mode == mode
        plan.apply(twin)
        with torch.no_grad():
            errors.append(sum(float((twin(x) - model(x)).norm()) for x in (held, other)))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("mode", EACH_MODE)
def test_the_plans_errors_are_those_of_the_network_as_decomposed_on_the_batches_held_out(mode: str) -> None:
    data = batches(4)
    model = structured()
    plan = plan_decomposition(model, LOW, calibration=Calibration(data, mode=mode))
    expected, original = seen_by(model, "conv2", data[1])[1:]
    decomposed, _ = plan.apply(model)
    _, response, output = seen_by(decomposed, "conv2", data[1])
    assert plan.layers[2].response_error == pytest.approx(relative(response, expected), rel=1e-4)
    error = (output - original).norm() / original.norm()
    assert plan.outcome.output_error == pytest.approx(float(error), rel=1e-4)
    agreement = (output.argmax(1) == original.argmax(1)).double().mean()
    assert plan.outcome.agreement == pytest.approx(float(agreement))
    text = plan.text(width=400)
    assert "Output error on 1 batch held out of the fit" in text
    assert "top-1 agreement with the original" in text
    assert f"{plan.layers[2].response_error:.3f}" in text
    assert "samples an unknown" in plan.explain().text(width=400)


def seen_by(model: nn.Module, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Input and response of a layer, and output of the model."""
    found: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, output: found.extend([*args, output]))
    with torch.no_grad():
        output = model(x)
    handle.remove()
    return found[0], found[1], output


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("mode", ["whiten", REFIT])
@pytest.mark.parametrize("bias", [False, True])
def test_each_channel_is_scaled_to_what_the_original_answers_there(mode: str, bias: bool) -> None:
    torch.manual_seed(5)
    layers = [layer for _ in range(4) for layer in (conv(bias=bias), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 64, 3), *layers).eval()
    data = batches(3, 16, 3, 16, 16)
    plan = plan_decomposition(model, LOW, calibration=Calibration(data, mode=mode))
    assert plan.layers[1].fit.scales is None  # runs on the inputs it was fitted to
    twin, _ = plan.apply(copy.deepcopy(model))
    wanted, found = (seen_by(net, "7", data[0])[1].transpose(0, 1).flatten(1).double() for net in (model, twin))
    if bias:
        assert float((wanted.mean(1) - found.mean(1)).norm() / wanted.std(1).norm()) < 0.1
        wanted, found = (values - values.mean(1, keepdim=True) for values in (wanted, found))
    slopes = (wanted * found).sum(1) / found.square().sum(1)
    assert float((slopes - 1).abs().mean()) < 0.03  # 0.035 to 0.2 without
    for layer in plan.layers[2:]:
        least, most = layer.fit.scales
        assert least < most
    text = plan.explain().text(width=400)
    assert "scaled 0." in text or "scaled 1" in text


@pytest.mark.parametrize("mode", ["whiten", "refit"])
def test_the_data_are_gone_over_once_and_the_first_inputs_once_more(mode: str) -> None:
    model = structured()
    calls = 0

    def count(module: nn.Module, args: object) -> None:
        nonlocal calls
        calls += 1

    model.stem.register_forward_pre_hook(count)
    given_once = iter(batches(12))
    plan_decomposition(model, LOW, calibration=Calibration(given_once, mode=mode))
    # Two batches of 6 are held back, and run as is, fitted, and plain. The first 3 of the others hold 16 inputs.
    assert calls == 10 + 3 + 2 * 3


def test_with_one_batch_the_plan_says_that_it_judges_what_it_fitted() -> None:
    plan = plan_decomposition(TwoConvs(), LOW, calibration=Calibration(batches(1)))
    assert not plan.outcome.held_out
    assert "fitted to, as there was no other" in plan.text(width=400)


@pytest.mark.parametrize("mode", EACH_MODE)
def test_shared_layers_and_tied_weights_pool_their_statistics(mode: str) -> None:
    class _Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.tied, self.alias_of_bias = conv(), conv(), conv()
            self.tied.weight = self.shared.weight
            self.alias_of_bias.weight = self.shared.weight
            self.alias_of_bias.bias = self.tied.bias

        def forward(self, x: Tensor) -> Tensor:
            x = self.shared(x).relu()
            return self.alias_of_bias(self.tied(self.shared(x).relu() + 1))

    model = _Shared().eval()
    data = [functional.avg_pool2d(image(6, 64, 9, 9) + index, 3, 1) for index in range(3)]
    plan = plan_decomposition(model, DecompositionConfig(rank=FixedRank(24)), calibration=Calibration(data, mode=mode))
    first, second, third = plan.layers
    assert first.fit == second.fit == third.fit
    assert first.response_error < first.plain_response_error
    expected = model(data[0])
    plan.apply(model)
    assert model.shared[0].weight is model.tied[0].weight is model.alias_of_bias[0].weight
    assert model.tied[1].bias is model.alias_of_bias[1].bias
    assert model.shared[1].bias is not model.tied[1].bias
    assert float((model(data[0]) - expected).norm() / expected.norm()) < 1


@pytest.mark.parametrize("mode", EACH_MODE)
def test_a_layer_that_no_batch_reaches_is_kept_with_a_warning(mode: str) -> None:
    class _Idle(TwoConvs):
        def __init__(self) -> None:
            super().__init__()
            self.idle = conv()

    model = _Idle().eval()
    plain = plan_decomposition(model, LOW)
    with pytest.warns(AmctWarning, match="the calibration batches never reach 'idle', which is kept"):
        plan = plan_decomposition(model, LOW, calibration=Calibration(batches(), mode=mode))
    assert plain.layers[3].decompose
    assert not plan.layers[3].decompose
    assert plan.layers[3].reason == "it never ran on the calibration batches"
    assert plan.layers[3].fit is plan.layers[3].response_error is None
    saved = sum(layer.parameters - layer.parameters_after for layer in plan.layers)
    assert plan.parameters - plan.parameters_after == saved
    assert list(plan.apply(copy.deepcopy(model))[1]) == ["conv1", "conv2"]
    assert not torch.equal(plan.layers[1].factors[0], plain.layers[1].factors[0])


@functools.cache
def plan_in_float32(mode: str) -> DecompositionPlan:
    return plan_decomposition(structured(), LOW, calibration=Calibration(batches(), mode=mode))


@pytest.mark.slow
@pytest.mark.parametrize("mode", EACH_MODE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_dtype_is_fitted_as_float32_is(mode: str, dtype: torch.dtype) -> None:
    model = structured().to(dtype)
    data = [batch.to(dtype) for batch in batches()]
    plan = plan_decomposition(model, LOW, calibration=Calibration(data, mode=mode))
    for layer, other in zip(plan.layers[1:], plan_in_float32(mode).layers[1:], strict=True):
        assert layer.response_error == pytest.approx(other.response_error, rel=0.05, abs=0.01)
    plan.apply(model)
    assert model.conv1[0].weight.dtype == model.conv1[1].bias.dtype == dtype
    assert torch.isfinite(model(data[0])).all()


@pytest.mark.parametrize("mode", EACH_MODE)
def test_a_coarser_float32_that_the_user_allows_changes_nothing(mode: str) -> None:
    exact = plan_in_float32(mode)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        plan = plan_decomposition(structured(), LOW, calibration=Calibration(batches(), mode=mode))
    finally:
        torch.set_float32_matmul_precision(before)
    assert plan.layers[1].response_error == pytest.approx(exact.layers[1].response_error, rel=0.02)
    assert plan.layers[1].error == pytest.approx(exact.layers[1].error, rel=0.02)


def test_ranks_of_evbmf_stay_and_those_of_energy_follow_the_data() -> None:
    model = structured()
    data = Calibration(batches())
    default = plan_decomposition(model)
    calibrated = plan_decomposition(model, calibration=data)
    assert [layer.rank for layer in calibrated.layers] == [layer.rank for layer in default.layers]
    assert [layer.reason for layer in calibrated.layers] == [layer.reason for layer in default.layers]
    energy = DecompositionConfig(rank=EnergyRank(0.9), rank_multiple=1, require_gain=False)
    of_weight, of_data = plan_decomposition(model, energy), plan_decomposition(model, energy, calibration=data)
    assert of_data.layers[1].rank < of_weight.layers[1].rank / 2


@pytest.mark.parametrize("mode", ["whiten", "reconstruct"])
@pytest.mark.parametrize("ignores", [True, False])
def test_a_policy_of_ones_own_says_which_singular_values_it_goes_by(mode: Any, ignores: bool) -> None:
    class Mine:
        ignores_calibration = ignores

        def __init__(self) -> None:
            self.seen: list[Any] = []

        def for_layer(self, names: tuple[str, ...]) -> Mine:
            return self

        def choose(self, kernel: Any, singulars: Any) -> tuple[int, str]:
            self.seen.append(singulars)
            return 16, "as I like it"

    of_weight, of_data = Mine(), Mine()
    plan_decomposition(model := structured(), DecompositionConfig(rank=of_weight))
    plan_decomposition(model, DecompositionConfig(rank=of_data), calibration=Calibration(batches(4), mode=mode))
    alike = [bool(np.allclose(*pair)) for pair in zip(of_weight.seen[:2], of_data.seen[:2], strict=True)]
    assert alike == [ignores, ignores]


@pytest.mark.parametrize("mode", EACH_MODE)
@pytest.mark.parametrize(
    ("inputs", "weights"), [(1e19, 1), (1e30, 1e-25), (1, 1e30), (1e-30, 1)], ids=["1e19", "1e30", "weights", "1e-30"]
)
def test_large_and_tiny_values_are_fitted_as_usual_ones_are(mode: Any, inputs: float, weights: float) -> None:
    def planned(scale: float, weight_scale: float) -> LayerPlan:
        torch.manual_seed(0)
        layer = nn.Conv2d(64, 64, 3, bias=False)
        layer.weight.data *= weight_scale
        data = [scale * image(8, 64, 8, 8) for _ in range(4)]
        config = DecompositionConfig(rank=FixedRank(24))
        return plan_decomposition(nn.Sequential(layer), config, calibration=Calibration(data, mode=mode)).layers[0]

    expected, found = planned(1, 1), planned(inputs, weights)
    assert found.error == pytest.approx(expected.error, rel=1e-3)
    assert found.response_error == pytest.approx(expected.response_error, rel=1e-3)
    assert all(bool(factor.isfinite().all()) for factor in found.factors)


def test_a_response_that_its_type_cannot_hold_is_an_error_that_names_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3))
    model[0].weight.data *= 1e30
    check = snapshot(model)
    with pytest.raises(InputsError, match="layer '0': its response on calibration batch 0 .* float32 cannot hold"):
        plan_decomposition(model, calibration=Calibration([1e20 * image(8, 64, 8, 8)] * 2))
    check()


@pytest.mark.parametrize("size", [3e38, 2.0**127, 1e-38, 1e-42])
def test_weights_near_the_ends_of_float32_are_split_like_others(size: float) -> None:
    weight = torch.rand(64, 64, 3, 3, generator=torch.Generator().manual_seed(0)).double().clamp_min(0.1)
    errors = []
    for scale in (size, 1.0):
        model = nn.Sequential(nn.Conv2d(64, 64, 3, bias=False))
        model[0].weight.data = (weight * scale).float()
        plan = plan_decomposition(model)
        model, _ = plan.apply(model)
        first, last = (stage.weight.double() / math.sqrt(scale) for stage in model[0])
        composed = torch.einsum("riab,orcd->oiacbd", first, last).reshape(weight.shape)
        errors += [plan.layers[0].error, float((composed - weight).norm() / weight.norm())]
    assert errors == pytest.approx([errors[-1]] * 4, rel=1e-2)


@pytest.mark.parametrize("mode", ["refit", "reconstruct"])
def test_over_the_memory_given_a_layer_is_whitened_and_the_plan_says_so(mode: str) -> None:
    size = 24 * (64 * 9) ** 2
    calibration = Calibration(batches(), mode=mode, memory=size - 1)
    whitened = plan_decomposition(structured(), LOW, calibration=calibration)
    assert [layer.fit.mode for layer in whitened.layers[1:]] == ["whiten", "whiten"]
    assert f"({mode} would take 0.00742 GiB of memory, over 0.00742 GiB)" in whitened.text(width=400)
    enough = plan_decomposition(structured(), LOW, calibration=Calibration(batches(), mode=mode, memory=size))
    expected = ["refit", "whiten"] if mode == "refit" else ["reconstruct"] * 2
    assert [layer.fit.mode for layer in enough.layers[1:]] == expected
    assert all(layer.response_error < layer.plain_response_error for layer in whitened.layers[1:])


def test_loaders_labels_tuples_mappings_and_forwards_of_ones_own() -> None:
    model = structured()
    images = torch.cat(batches())
    reference = plan_decomposition(model, LOW, calibration=Calibration(images.split(6)))

    def same(calibration: Calibration, net: nn.Module = model) -> None:
        plan = plan_decomposition(net, LOW, calibration=calibration)
        for layer, expected in zip(plan.layers[1:], reference.layers[1:], strict=True):
            assert layer.response_error == pytest.approx(expected.response_error, rel=1e-5)

    labelled = TensorDataset(images, torch.arange(len(images)))
    same(Calibration(DataLoader(labelled, batch_size=6)))
    same(Calibration([{"x": batch} for batch in images.split(6)]))
    paired = ((batch, "label") for batch in images.split(6))
    same(Calibration(paired, forward=lambda net, batch: net(batch[0]), max_batches=3))
    same(Calibration(iter(images.split(6)), max_batches=3))
    same(Calibration([*images.split(6), image(1, 5, 2, 2)], max_batches=3))

    class _Two(TwoConvs):
        def forward(self, x: Tensor, shift: Tensor, unused: object = None) -> Tensor:
            return super().forward(x + shift)

    two = _Two().eval()
    two.load_state_dict(model.state_dict())
    same(Calibration([(batch - 1, torch.ones(1), "label") for batch in images.split(6)]), two)


def test_a_loader_that_shuffles_serves_every_pass_alike_unless_it_has_a_generator_of_its_own() -> None:
    dataset = TensorDataset(torch.cat(batches()))
    loader = DataLoader(dataset, batch_size=6, shuffle=True)
    plan_decomposition(structured(), LOW, calibration=Calibration(loader, mode="reconstruct"))
    own = DataLoader(dataset, batch_size=6, shuffle=True, generator=torch.Generator())
    with pytest.raises(InputsError, match=r"batch 0 of pass 2 is not that of the first pass: .* needs the same"):
        plan_decomposition(structured(), LOW, calibration=Calibration(own, mode="reconstruct"))


def test_reconstruct_runs_the_network_only_as_far_as_each_layer() -> None:
    model = structured()
    calls = {"conv1": 0, "conv2": 0, "head": 0}
    for name in calls:
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: calls.__setitem__(name, calls[name] + 1)
        )
    plan_decomposition(model, LOW, calibration=Calibration(batches(5), mode="reconstruct"))
    # Four batches to fit: once for the targets, once for each layer; one held out, run as is, fitted, and plain.
    # A hook is not called where the run ends inside of its layer.
    assert calls == {"conv1": 4 + 4 + 3, "conv2": 4 + 3, "head": 4 + 3}


@pytest.mark.parametrize("mode", EACH_MODE)
def test_batches_without_items_and_responses_that_overflow_spoil_nothing(mode: str) -> None:
    model = TwoConvs().eval()
    plan = plan_decomposition(
        model, LOW, calibration=Calibration([image(0, 3, 16, 16), image(0, 3, 16, 16), *batches()], mode=mode)
    )
    assert all(torch.isfinite(layer.bias).all() for layer in plan.layers[1:])
    half = structured().half()
    half.conv1.bias.data.fill_(30000)  # near the largest float16
    plan = plan_decomposition(half, LOW, calibration=Calibration([60 * batch.half() for batch in batches()], mode=mode))
    assert all(torch.isfinite(weight).all() for layer in plan.layers[1:] for weight in [*layer.factors, layer.bias])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": image()}, r"found one tensor \(2, 3, 16, 16\): give a list, such as images.split\(32\)"),
        ({"batches": "images"}, "must be an iterable of inputs, found str"),
        ({"batches": 3}, "must be an iterable of inputs, found int"),
        (
            {"batches": [], "mode": "best"},
            "mode must be one of 'whiten', 'refit', 'reconstruct', 'refine', found 'best'",
        ),
        ({"batches": [], "max_batches": 0}, "max_batches must be a whole number from 1 on, found 0"),
        ({"batches": [], "max_batches": True}, "max_batches must be a whole number"),
        ({"batches": [], "memory": -1}, "memory must be a whole number from 0 on, found -1"),
        ({"batches": [], "forward": "net"}, "forward must be a function"),
        ({"batches": iter([]), "mode": "reconstruct"}, "list_iterator can be gone through once only: give a list"),
    ],
)
def test_wrong_settings_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Calibration(**arguments)


def test_calibration_must_be_one() -> None:
    with pytest.raises(ConfigError, match="calibration must be a Calibration, found list"):
        plan_decomposition(TwoConvs(), calibration=batches())


def _used_up() -> Iterator[Tensor]:
    iterator = iter(batches())
    list(iterator)
    return iterator


def _interrupted() -> Iterator[Tensor]:
    yield from batches(2)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("given_batches", "error", "message"),
    [
        (list, InputsError, "batches gave none$"),
        (_used_up, InputsError, "gave none: it is an iterator that was gone through before"),
        (
            lambda: [*batches(2), image(2, 5, 8, 8)],
            InputsError,
            r"batch 2 \(\(2, 5, 8, 8\) .*: the model fails on it: R",
        ),
        (lambda: [*batches(3), "image"], InputsError, "batch 3 .*: a batch must be a tensor, .* found str: give"),
        (lambda: [*batches(2), batches(1)[0] * torch.nan], InputsError, "'conv1': its input on calibration batch 2 "),
        (lambda: [batches(1)[0] * 1e38 * 10], InputsError, "'conv1': its input on calibration batch 0 holds NaN"),
        (_interrupted, KeyboardInterrupt, None),
    ],
)
def test_bad_batches_are_refused_and_leave_no_trace(
    given_batches: Callable[[], Any], error: type[BaseException], message: str | None
) -> None:
    model = TwoConvs()
    check = snapshot(model)
    generator = torch.get_rng_state()
    for mode in ("whiten", "reconstruct") if isinstance(given_batches(), list) else ("whiten",):
        with pytest.raises(error, match=message):
            auto_decomposition(model, config=LOW, calibration=Calibration(given_batches(), mode=mode))
        check()
        assert not any("forward" in vars(module) for module in model.modules())
        assert torch.equal(torch.get_rng_state(), generator)


def test_a_forward_that_fails_half_way_through_a_later_pass_leaves_no_trace() -> None:
    model = TwoConvs()
    check = snapshot(model)
    calls = 0

    def forward(net: nn.Module, batch: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            net.conv1(net.stem(batch))
            raise OSError("the disk is gone")
        return net(batch)

    with pytest.raises(InputsError, match="calibration batch 0 .*: the model fails on it: OSError: the disk is gone"):
        plan_decomposition(model, LOW, calibration=Calibration(batches(), forward=forward, mode="reconstruct"))
    check()
    assert not any("forward" in vars(module) for module in model.modules())


def test_far_too_few_samples_are_warned_of_with_what_is_needed() -> None:
    model = nn.Sequential(conv(96, 96, padding=0)).eval()
    data = [image(2, 96, 4, 4)]
    config = DecompositionConfig(rank=FixedRank(36))
    for mode in MODES:
        with pytest.warns(
            AmctWarning, match=r"too few calibration data for '0': 0\.0\d+ samples .* times as many inputs"
        ):
            plan = plan_decomposition(model, config, calibration=Calibration(data, mode=mode))
        (layer,) = plan.layers
        assert layer.response_error <= layer.plain_response_error


def test_a_bias_that_changed_since_the_plan_is_refused() -> None:
    model = TwoConvs()
    plan = plan_decomposition(model, LOW, calibration=Calibration(batches()))
    model.conv2.bias.data += 1
    with pytest.raises(LayerError, match="'conv2': its weight or bias has changed since the plan was made"):
        plan.apply(model)
    model.conv2.bias.data[3] = torch.nan
    with pytest.raises(LayerError, match="'conv2': expected a finite bias, found NaN or infinity"):
        plan_decomposition(model, LOW, calibration=Calibration(batches()))


def test_a_bias_that_something_else_holds_or_that_has_hooks_stays_as_it_is() -> None:
    class _Borrowing(TwoConvs):
        def __init__(self) -> None:
            super().__init__()
            self.norm.bias = self.conv1.bias

    model = _Borrowing().eval()
    model.conv2.bias.register_hook(lambda gradient: gradient)
    biases = model.conv1.bias, model.conv2.bias
    for mode in MODES:
        plan = plan_decomposition(model, LOW, calibration=Calibration(batches(), mode=mode))
        assert [layer.bias for layer in plan.layers] == [None] * 3
        assert all(layer.response_error < layer.plain_response_error for layer in plan.layers[1:])
    plan.apply(model)
    assert model.norm.bias is model.conv1[1].bias is biases[0]
    assert model.conv2[1].bias is biases[1]


def test_flags_and_marks_of_a_corrected_bias_stay() -> None:
    model = TwoConvs()
    model.conv1.bias.requires_grad_(False)
    model.conv1.bias.mark = "mine"
    auto_decomposition(model, config=LOW, calibration=Calibration(batches()))
    assert not model.conv1[1].bias.requires_grad
    assert model.conv1[1].bias.mark == "mine"


def test_a_model_that_is_itself_a_convolution_is_fitted_and_left_alone() -> None:
    layer = conv()
    check = snapshot(layer)
    data = [image(6, 64, 9, 9) + 1, image(6, 64, 9, 9)]
    plan = plan_decomposition(layer, LOW, calibration=Calibration(data, mode="refit"))
    chain, _ = plan.apply(layer)
    check()
    assert not torch.equal(chain.bias, layer.bias)
    unbatched, _ = auto_decomposition(
        layer, config=LOW, calibration=Calibration([item for batch in data for item in batch], max_batches=7)
    )
    assert unbatched(image(64, 9, 9)).shape == (64, 9, 9)


def test_a_layer_that_gains_nothing_is_kept_and_the_rest_is_fitted() -> None:
    config = DecompositionConfig(rank=FixedRank({"conv1": 190, "conv2": 12}))
    for mode in MODES:
        plan = plan_decomposition(structured(), config, calibration=Calibration(batches(), mode=mode))
        assert [layer.decompose for layer in plan.layers] == [False, False, True]
        assert plan.layers[1].fit is None
        assert plan.layers[2].response_error < plan.layers[2].plain_response_error


def test_a_call_whose_shape_depends_on_earlier_layers_is_fitted_to_its_own_response() -> None:
    class _Picking(TwoConvs):
        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(self.stem(x)).relu()
            strong = x.mean((1, 2, 3))
            return self.conv2(x[strong >= strong.median() + 1e-9 * x.flatten()[0]]).mean((2, 3))

    for mode in MODES:
        plan = plan_decomposition(_Picking().eval(), LOW, calibration=Calibration(batches(4), mode=mode))
        assert all(layer.fit.mode == mode for layer in plan.layers[1:])


@pytest.mark.parametrize("mode", EACH_MODE)
def test_progress_reports_batches_and_layers(mode: str) -> None:
    calls: list[tuple[int, int, str]] = []
    plan_decomposition(
        TwoConvs(), LOW, calibration=Calibration(batches(), mode=mode), progress=lambda *call: calls.append(call)
    )
    assert calls[0] == (0, 2, "batch 0")
    assert calls[-1][:2] == (2, 2)
    assert {call[2] for call in calls} == {"batch 0", "batch 2", "conv1", "conv2"}


def test_outputs_that_are_no_logits_have_no_agreement_and_odd_ones_no_error() -> None:
    class _Odd(TwoConvs):
        def forward(self, x: Tensor) -> object:
            logits = super().forward(x)
            return {"map": logits[:, :, None], "names": ["a"]} if x.shape[0] == 6 else None

    plan = plan_decomposition(_Odd().eval(), LOW, calibration=Calibration(batches()))
    assert plan.outcome.agreement is None
    assert plan.outcome.output_error > 0
    nothing = plan_decomposition(_Odd().eval(), LOW, calibration=Calibration(batches(3, 5, 3, 16, 16)))
    assert nothing.outcome.output_error is None
    assert "the model's outputs cannot be compared" in nothing.text(width=400)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.055, 0.05, 0.045, 0.04, 0.03])
def test_on_the_digits_network_each_mode_recovers_what_it_promises(ratio: float) -> None:
    train, _, images, labels = load_digits_tensors()
    some = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:256]]
    config = DecompositionConfig(rank=RatioRank(ratio), rank_multiple=1)
    original = accuracy(load_pretrained(), images, labels)
    plain = accuracy(auto_decomposition(load_pretrained(), config=config)[0], images, labels)
    assert original - plain > 10
    for mode, share in zip(MODES, (0.60, 0.85, 0.95), strict=True):
        calibration = Calibration(some.split(32), mode=mode)
        found = accuracy(
            auto_decomposition(load_pretrained(), config=config, calibration=calibration)[0], images, labels
        )
        assert (found - plain) / (original - plain) >= share, mode


@pytest.mark.filterwarnings("ignore:too few calibration data")
@pytest.mark.parametrize("side", [16, 8])
def test_reconstruct_counts_on_more_noise_the_fewer_samples_there_are(side: int) -> None:
    model = nn.Sequential(conv(64), nn.ReLU(), conv(64), nn.ReLU()).eval()
    config = DecompositionConfig(rank=RatioRank(0.7), require_gain=False)
    inputs = data(0, "noise", 1, side)[:, :64].expand(2, -1, -1, -1)  # the halves agree in all
    # By a function, which might make other inputs of it each time, so that what repeats counts.
    calibration = Calibration([inputs, inputs], forward=lambda net, batch: net(batch), mode="reconstruct")
    plan = plan_decomposition(model, config, calibration=calibration)
    layer, plain = plan.layers[1], plan_decomposition(model, config).layers[1]
    values_by_samples = 576 / (2 * side * 7)  # of the batch that is not held out
    assert 0.95 > layer.fit.shrinkage >= values_by_samples * plain.error**2 > plain.error**2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:too few calibration data")
def test_with_few_inputs_reconstruct_still_loses_no_more_than_refit() -> None:
    train, _, images, _ = load_digits_tensors()
    config = DecompositionConfig(rank=RatioRank(0.06), rank_multiple=1)
    with torch.no_grad():
        expected = load_pretrained()(images)
    for seed in range(2):
        some = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:32]]
        errors = []
        for mode in ("refit", "reconstruct"):
            calibration = Calibration([some], mode=mode)
            net, _ = auto_decomposition(load_pretrained(), config=config, calibration=calibration)
            with torch.no_grad():
                errors.append(float((net(images) - expected).norm() / expected.norm()))
        assert errors[1] < 0.9 * errors[0]


@pytest.mark.filterwarnings("ignore:too few calibration data")
@pytest.mark.parametrize("mode", ["whiten", "reconstruct"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_inputs_that_repeat_are_no_evidence_of_their_own_and_are_reported(mode: Any, value: float) -> None:
    # The same item in both halves of the data would let each half confirm what the other fits: errors on images grew a
    # hundredfold, while those of the plan were below a thousandth.
    torch.manual_seed(0)
    model = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16)).eval()
    config = DecompositionConfig(rule="any", rank=FixedRank(8), rank_multiple=1)
    images = image(4, 16, 12, 12)
    expected = model(images).detach()
    plain, _ = auto_decomposition(copy.deepcopy(model), config=config)
    same = [torch.full((8, 16, 24, 24), value)] * 4
    with pytest.warns(AmctWarning, match="31 of 32 calibration inputs are the same as others before them"):
        auto_decomposition(model, config=config, calibration=Calibration(same, mode=mode))
    errors = [float((net(images).detach() - expected).norm() / expected.norm()) for net in (model, plain)]
    assert errors[0] < 2 * errors[1]


def test_a_fit_to_inputs_some_of_which_repeat_is_that_without_the_repeats() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(16, 16))
    first, second, third = (image(4, 16, 10, 10) * factor for factor in (1.0, 2.0, 3.0))
    config = DecompositionConfig(rule="any", rank=FixedRank(8), rank_multiple=1)
    plans = []
    for data in ([first, second, third], [first, second, third, first, third]):
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            plans.append(plan_decomposition(model, config, calibration=Calibration(data, mode="reconstruct")))
    one, other = (plan.layers[0] for plan in plans)
    assert one.fit is not None
    assert other.fit is not None
    assert one.fit.samples == other.fit.samples
    assert one.fit.ridge == other.fit.ridge


def test_tokens_that_repeat_in_a_text_are_no_inputs_that_repeat() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(4, 32), nn.Linear(32, 32))
    texts = [torch.randint(4, (64,), generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    config = DecompositionConfig("channel", rule="any", rank=FixedRank(4), rank_multiple=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* calibration inputs are the same")
        plan = plan_decomposition(model, config, calibration=Calibration(texts, mode="refit"))
    assert plan.layers[0].fit is not None
    assert plan.layers[0].fit.samples == 3 * 64  # one text is held out


@pytest.mark.parametrize("mode", ["refit", "reconstruct"])
def test_what_the_users_function_makes_of_one_batch_is_no_repeat(mode: Any) -> None:
    model = nn.Sequential(conv(16, 16))
    noise = iter(image(64, 4, 16, 10, 10))
    seen: list[Tensor] = []

    def forward(net: nn.Module, batch: Tensor) -> object:
        seen.append(batch + next(noise))
        return net(seen[-1])

    config = DecompositionConfig(rule="any", rank=FixedRank(8), rank_multiple=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* calibration inputs are the same")
        same = [torch.zeros(4, 16, 10, 10)] * 6
        plan_decomposition(model, config, calibration=Calibration(same, mode=mode, forward=forward))


@pytest.mark.parametrize("bad", [1, 2])
@pytest.mark.parametrize("mode", ["whiten", "reconstruct"])
def test_a_batch_with_nan_is_named_held_out_or_not(bad: int, mode: Any) -> None:
    data = [image(2, 64, 8, 8) * factor for factor in (1.0, 2.0, 3.0)]
    data[bad] = data[bad] * math.nan
    with pytest.raises(InputsError, match=f"layer '0': its input on calibration batch {bad} holds NaN or infinity"):
        plan_decomposition(nn.Sequential(conv()), LOW, calibration=Calibration(data, mode=mode))


class Inference(nn.Module):
    """Runs itself in inference mode, as predictors do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(16, 16), conv(16, 16)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu())


@pytest.mark.parametrize("mode", ["whiten", "refit", "reconstruct", "refine"])
def test_a_model_that_runs_itself_in_inference_mode_is_calibrated(mode: Any) -> None:
    torch.manual_seed(0)
    data = list(image(4, 4, 16, 12, 12))
    config = DecompositionConfig(rule="any", rank=FixedRank(16), rank_multiple=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = plan_decomposition(Inference(), config, calibration=Calibration(data, mode=mode))
    assert plan.outcome is not None
    assert plan.outcome.output_error is not None
    assert plan.outcome.plain_output_error is not None
    assert plan.outcome.output_error < plan.outcome.plain_output_error


class FailsLater:
    """Batches of which the second cannot be read; it cannot say its length either."""

    def __iter__(self) -> Iterator[Tensor]:
        yield image(2, 64, 8, 8)
        raise OSError("the disk is gone")

    def __len__(self) -> int:
        raise RuntimeError("unknown")


@pytest.mark.parametrize("mode", ["whiten", "reconstruct"])
def test_batches_that_cannot_be_read_are_an_error_that_says_which(mode: Any) -> None:
    model = nn.Sequential(conv())
    unchanged = snapshot(model)
    with pytest.raises(InputsError, match="Calibration: batches fail at batch 1: OSError: the disk is gone") as caught:
        auto_decomposition(model, config=LOW, calibration=Calibration(FailsLater(), mode=mode))
    assert isinstance(caught.value.__cause__, OSError)
    unchanged()


def test_a_dataset_is_refused_with_what_to_give_instead() -> None:
    with pytest.raises(ConfigTypeError, match=r"found TensorDataset: give DataLoader\(dataset, batch_size=32\)"):
        Calibration(TensorDataset(image()))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["whiten", "reconstruct"])
@pytest.mark.parametrize("change", [lambda batch: batch.to("meta"), lambda batch: batch.to_sparse()])
def test_batches_of_another_layout_or_without_values_are_refused(change: Callable[[Tensor], Tensor], mode: Any) -> None:
    data = [change(image(2, 64, 8, 8))] * 2
    with pytest.raises(InputsError, match=r"calibration batch 0 \(\(2, 64, 8, 8\) torch.float32 on (meta|cpu)\)"):
        plan_decomposition(nn.Sequential(conv()), LOW, calibration=Calibration(data, mode=mode))
