"""The linear algebra beneath: estimates, fallbacks, and how work is shared out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from amct_pytorch._run.workers import alone_and_together, run_all
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
@settings(derandomize=True)
def test_rounded_ranks_are_multiples_near_the_rank_and_within_the_full_one(rank: int, multiple: int, full: int) -> None:
    rounded = round_rank(rank, multiple, full)
    assert 1 <= rounded <= full
    assert rounded == full or rounded % multiple == 0
    assert rounded in (full, multiple) or 0.9 * rank <= rounded <= rank + multiple


@given(st.integers(0, 10**4), st.integers(16, 10**4), st.integers(1, 4096))
@settings(derandomize=True)
def test_the_window_is_a_fifth_to_a_quarter_or_a_seventh_to_a_sixth(rank: int, full: int, channels: int) -> None:
    low, high = (5, 4) if channels >= 256 else (7, 6)
    assert full // low <= clamp_to_window(rank, full, channels) <= full // high


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50), st.floats(0.01, 1))
@settings(derandomize=True)
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


@pytest.mark.parametrize(
    ("costs", "workers", "alone", "together"),
    [
        ([1, 1, 1, 1], 2, [], [0, 1, 2, 3]),
        ([1, 9, 1, 1], 2, [1], [0, 2, 3]),  # the others would be done long before it
        ([200, 1, 1], 8, [0, 1, 2], []),
        ([5, 101, 5, 5, 102, 5], 2, [4, 1], [0, 2, 3, 5]),  # above 100 nothing runs beside it
        ([3, 2], 1, [0, 1], []),
        ([], 2, [], []),
    ],
)
def test_dear_items_go_alone_and_the_others_side_by_side(
    costs: list[float], workers: int, alone: list[int], together: list[int]
) -> None:
    assert alone_and_together(costs, workers, alone_above=100) == (alone, together)


def test_results_come_in_order_and_an_error_stops_the_rest() -> None:
    torch.set_num_threads(3)
    seen: list[int] = []
    results = run_all(lambda n: n * n, range(9), costs=[1] * 9, alone_above=10, done=seen.append)
    assert results == [n * n for n in range(9)]
    assert sorted(seen) == list(range(9))

    def fail(n: int) -> int:
        raise ValueError(n)

    with pytest.raises(ValueError, match="^[0-8]$"):
        run_all(fail, range(9), costs=[1] * 9, alone_above=10, done=seen.append)
    assert torch.get_num_threads() == 3


def test_threads_that_start_later_get_the_users_number_of_threads() -> None:
    program = (
        "import threading, torch; from torch import nn; from amct_pytorch.tensor_decompose import plan_decomposition\n"
        "torch.set_num_threads(2)\n"
        "plan_decomposition(nn.Sequential(*[nn.Conv2d(64, 64, 3) for _ in range(4)]))\n"
        "thread = threading.Thread(target=lambda: (torch.ones(9).sum(), print(torch.get_num_threads())))\n"
        "thread.start(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


def test_decompositions_in_several_threads_take_turns_and_leave_the_process_as_it_was() -> None:
    program = (
        "import threading, torch; from torch import nn; from amct_pytorch.tensor_decompose import auto_decomposition\n"
        "torch.set_num_threads(2)\n"
        "torch.backends.disable_global_flags()  # an application may have frozen torch's switches\n"
        "models = [nn.Sequential(*[nn.Conv2d(64, 64, 3) for _ in range(3)]) for _ in range(6)]\n"
        "threads = [threading.Thread(target=auto_decomposition, args=(model,)) for model in models]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "assert all(len(layer) == 2 for model in models for layer in model)\n"
        "print(torch.backends.mkldnn.enabled, torch.get_num_threads())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "2"], done.stderr
