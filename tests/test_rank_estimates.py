"""Rank estimates from singular values, and the precision of these values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from amct_pytorch.tensor_decompose import plan_decomposition
from amct_pytorch.tensor_decompose.methods import linalg
from amct_pytorch.tensor_decompose.methods import low_rank as lowrank
from amct_pytorch.tensor_decompose.ranks.evbmf import evbmf_rank
from amct_pytorch.tensor_decompose.ranks.policies import clamp_to_window, energy_rank, round_rank


def test_evbmf_finds_the_terms_that_stand_out_of_noise() -> None:
    rng = np.random.default_rng(0)
    for terms in (0, 5, 40):
        signal = rng.standard_normal((200, terms)) @ rng.standard_normal((terms, 300))
        noisy = 10 * signal + rng.standard_normal((200, 300))
        assert evbmf_rank(np.linalg.svd(noisy, compute_uv=False), 300) == terms
    assert evbmf_rank(np.zeros(200), 300) == 0


@given(st.integers(0, 3000), st.integers(1, 64), st.integers(16, 3000))
def test_rounded_ranks_are_multiples_near_the_rank_and_within_the_full_one(rank: int, multiple: int, full: int) -> None:
    rounded = round_rank(rank, multiple, full)
    assert 1 <= rounded <= full
    assert rounded == full or rounded % multiple == 0
    assert rounded in (full, multiple) or 0.9 * rank <= rounded <= rank + multiple


@given(st.integers(0, 10**4), st.integers(16, 10**4), st.integers(1, 4096))
def test_the_window_is_a_fifth_to_a_quarter_or_a_seventh_to_a_sixth(rank: int, full: int, channels: int) -> None:
    low, high = (5, 4) if channels >= 256 else (7, 6)
    assert full // low <= clamp_to_window(rank, full, channels) <= full // high


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50), st.floats(0.01, 1))
def test_energy_rank_is_the_least_that_holds_the_share(values: list[float], share: float) -> None:
    singulars = np.sort(np.array(values))[::-1]
    rank = energy_rank(singulars, share)
    total = (singulars**2).sum()
    assert (singulars[:rank] ** 2).sum() >= share * total * (1 - 1e-12)
    assert rank == 1 or (singulars[: rank - 1] ** 2).sum() < share * total * (1 + 1e-12)


def test_an_eigensolver_that_does_not_converge_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(64, 96, 3))
    (expected,) = plan_decomposition(model).layers

    def fail(*args: object, **options: object) -> None:
        raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    (found,) = plan_decomposition(model).layers
    assert (found.rank, found.error) == (expected.rank, pytest.approx(expected.error, rel=1e-5))


def test_float64_looks_again_where_float32_could_turn_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    precisions: list[torch.dtype] = []
    original = linalg.eigen_of_gram
    monkeypatch.setattr(lowrank, "eigen_of_gram", lambda m: precisions.append(m.dtype) or original(m))
    conv = nn.Conv2d(64, 64, 3)
    plan_decomposition(conv)
    assert precisions == [torch.float32]  # white noise is clamped, far from any edge
    # Terms so weak that float32 cannot count them: an estimate inside the window must not depend on rounding.
    rng = np.random.default_rng(3)
    columns, rows = rng.standard_normal((30, 192)), rng.standard_normal((30, 192))
    weight = ((0.6 ** np.arange(30))[:, None] * columns).T @ rows
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(weight.reshape(64, 3, 64, 3).transpose(2, 0, 1, 3).copy()))
    precisions.clear()
    (layer,) = plan_decomposition(conv).layers
    assert precisions == [torch.float32, torch.float64]
    assert layer.error < 1e-5
