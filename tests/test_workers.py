"""How work is divided among threads, and the state of the process afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from amct_pytorch._run.workers import alone_and_together, run_all


@pytest.mark.parametrize(
    ("costs", "workers", "alone", "together"),
    [
        ([1, 1, 1, 1], 2, [], [0, 1, 2, 3]),
        ([1, 9, 1, 1], 2, [1], [0, 2, 3]),  # the others would finish long before it
        ([200, 1, 1], 8, [0, 1, 2], []),
        ([5, 101, 5, 5, 102, 5], 2, [4, 1], [0, 2, 3, 5]),  # runs alone above 100
        ([3, 2], 1, [0, 1], []),
        ([], 2, [], []),
    ],
)
def test_expensive_items_go_alone_and_the_others_side_by_side(
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


@pytest.mark.slow
def test_decompositions_in_several_threads_take_turns_and_leave_the_process_as_it_was() -> None:
    """Threads started later get the user's number of threads, too."""
    program = (
        "import threading, torch; from torch import nn; from amct_pytorch.tensor_decompose import auto_decomposition\n"
        "torch.set_num_threads(2)\n"
        "torch.backends.disable_global_flags()  # an application may have frozen torch's switches\n"
        "models = [nn.Sequential(*[nn.Conv2d(64, 64, 3) for _ in range(3)]) for _ in range(6)]\n"
        "threads = [threading.Thread(target=auto_decomposition, args=(model,)) for model in models]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "assert all(len(layer) == 2 for model in models for layer in model)\n"
        "print(torch.backends.mkldnn.enabled, torch.get_num_threads())\n"
        "later = threading.Thread(target=lambda: (torch.ones(9).sum(), print(torch.get_num_threads())))\n"
        "later.start(); later.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "2", "2"], done.stderr
