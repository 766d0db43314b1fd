"""Properties of the split: exact at full rank, optimal below it, and independent of the other layers of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    EnergyRank,
    EvbmfRank,
    FixedRank,
    RatioRank,
    auto_decomposition,
    plan_decomposition,
)

_EXACT = DecompositionConfig(rank=RatioRank(1.0), rank_multiple=1, require_gain=False)


@st.composite
def _convs(draw: st.DrawFn) -> tuple[nn.Conv2d, torch.Tensor]:
    """A convolution that can be split, of any mode, and an input for it."""
    kernel = draw(st.tuples(st.integers(3, 8), st.integers(3, 8)))
    fewest = 64 if min(kernel) < 7 else 3
    channels = draw(st.tuples(*[st.integers(fewest, fewest + 8)] * 2))
    padding_mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding = draw(st.sampled_from(["same", "valid"]) | st.tuples(st.integers(0, 3), st.integers(0, 3)))
    stride = (1, 1) if padding == "same" else draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    size = draw(st.tuples(st.integers(9, 14), st.integers(9, 14)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    conv = nn.Conv2d(
        *channels, kernel, stride=stride, padding=padding, bias=draw(st.booleans()),
        padding_mode=padding_mode, dtype=dtype,
    )  # fmt: skip
    return conv, torch.randn(2, channels[0], *size, dtype=dtype)


@given(_convs())
@settings(max_examples=40)
def test_a_full_rank_split_equals_the_original(case: tuple[nn.Conv2d, torch.Tensor]) -> None:
    conv, x = case
    chain, changes = auto_decomposition(conv, config=_EXACT)
    assert changes == {"": ["0", "1"]}
    with torch.no_grad():
        expected, found = conv(x), chain(x)
    rounding = torch.finfo(x.dtype).eps * 100
    assert (found - expected).norm() <= rounding * expected.norm()
    assert found.shape == expected.shape
    composed = chain.weight
    assert (composed - conv.weight).norm() <= rounding * conv.weight.norm()


@given(_convs(), st.integers(1, 24))
@settings(max_examples=40)
def test_a_split_is_the_best_of_its_rank(case: tuple[nn.Conv2d, torch.Tensor], rank: int) -> None:
    conv, _ = case
    plan = plan_decomposition(conv, DecompositionConfig(rank=FixedRank(min(rank, 9)), require_gain=False))
    (layer,) = plan.layers
    first_is_height = layer.mode in ("SCFK", "FCSK")
    order = (1, 2, 0, 3) if first_is_height else (1, 3, 0, 2)
    weight = conv.weight.detach().double().permute(*order)
    singulars = torch.linalg.svdvals(weight.reshape(weight.shape[0] * weight.shape[1], -1))
    best = (singulars[layer.rank :].norm() / singulars.norm()).item()
    chain, _ = plan.apply(conv)
    reached = ((chain.weight - conv.weight).norm() / conv.weight.norm()).item()
    assert layer.error == pytest.approx(best, rel=1e-4, abs=1e-5)
    assert reached == pytest.approx(best, rel=1e-4, abs=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e25])
def test_weights_of_any_scale_keep_their_digits(scale: float) -> None:
    conv = nn.Conv2d(64, 64, 3, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(64, 64, 3, 3) * scale)
    chain, _ = auto_decomposition(conv, config=_EXACT)
    difference = (chain.weight - conv.weight).double().norm() / conv.weight.double().norm()
    assert difference < 1e-5


def test_a_weight_of_zeros_or_of_few_terms_is_decomposed() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, bias=False), nn.Conv2d(64, 64, 3, bias=False))
    with torch.no_grad():
        model[0].weight.zero_()
        columns, rows = torch.randn(3, 64, 3), torch.randn(3, 64, 3)
        model[1].weight.copy_(torch.einsum("rih,row->oihw", columns, rows))
    weight = model[1].weight.detach().clone()
    plan = plan_decomposition(model)
    assert [layer.error for layer in plan.layers] == [0, pytest.approx(0, abs=1e-5)]
    plan.apply(model)
    assert model[0].weight.count_nonzero() == 0
    torch.testing.assert_close(model[1].weight, weight)


def test_layers_factored_side_by_side_are_the_same_as_one_by_one() -> None:
    model = nn.Sequential(*[nn.Conv2d(64, 64 + 16 * index, 3) for index in range(5)])
    plans = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        plans.append(plan_decomposition(model))
        assert torch.get_num_threads() == threads
    alone = plans[0]
    for plan in plans[1:]:
        assert [layer.rank for layer in plan.layers] == [layer.rank for layer in alone.layers]
        for here, there in zip(plan.layers, alone.layers, strict=True):
            product = here.factors[0].flatten(1).T @ here.factors[1].transpose(0, 1).flatten(1)
            expected = there.factors[0].flatten(1).T @ there.factors[1].transpose(0, 1).flatten(1)
            torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-5)


def test_reduced_matmul_precision_autocast_and_inference_mode_change_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(64, 96, 3))
    (expected,) = plan_decomposition(model).layers
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            plan = plan_decomposition(model)
            plan.apply(model)
    finally:
        torch.set_float32_matmul_precision(precision)
    (found,) = plan.layers
    assert found.rank == expected.rank
    for here, there in zip(found.factors, expected.factors, strict=True):
        torch.testing.assert_close(here, there)
    model(torch.randn(1, 64, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_leading_terms_that_float32_would_blur_are_computed_in_float64() -> None:
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.standard_normal((192, 192)))
    right, _ = np.linalg.qr(rng.standard_normal((192, 192)))
    singulars = np.geomspace(1, 1e-6, 192)
    weight = ((left * singulars) @ right).reshape(64, 3, 64, 3).transpose(2, 0, 1, 3)
    conv = nn.Conv2d(64, 64, 3, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(weight.copy()))
    # Float32 alone loses everything below 1e-3.5 of the largest singular value.
    for rank in (120, 150, 180):
        (layer,) = plan_decomposition(conv, DecompositionConfig(rank=FixedRank(rank), require_gain=False)).layers
        best = np.sqrt((singulars[rank:] ** 2).sum() / (singulars**2).sum())
        assert layer.error == pytest.approx(best, rel=0.01, abs=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-200, 1e-5, 1e160])
@pytest.mark.parametrize("policy", [EvbmfRank(), EnergyRank(0.9)])
def test_double_precision_has_its_whole_range(scale: float, policy: EvbmfRank | EnergyRank) -> None:
    conv = nn.Conv2d(64, 64, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(64, 64, 3, 3, dtype=torch.float64) * scale)
    chain, _ = auto_decomposition(conv, config=DecompositionConfig(rank=policy, require_gain=False))
    assert chain[0].out_channels == (32 if policy == EvbmfRank() else 112)
    assert ((chain.weight - conv.weight) / scale).norm() < (conv.weight / scale).norm()
