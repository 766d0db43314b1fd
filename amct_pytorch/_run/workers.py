"""Run independent heavy computations in parallel, within the number of threads that torch may use."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from .interrupts import Switch, interrupt_if_pressed, restored_after

Item = TypeVar("Item")
Result = TypeVar("Result")

# Upper limit of parallel workers: more would leave each few threads, and hold more working sets in memory.
_MOST_WORKERS = 8


def alone_and_together(costs: Sequence[float], workers: int, alone_above: float) -> tuple[list[int], list[int]]:
    """Which items to compute one by one with all threads, and which in parallel.

    An item runs alone if its cost exceeds ``alone_above``, as its working set is large, or if the remaining items are
    too cheap to keep the other workers busy meanwhile.

    Parameters
    ----------
    costs
        Relative cost of each item.
    workers
        Number of parallel workers.
    alone_above
        Items more expensive than this always run alone.

    Returns
    -------
    alone, together : list of int
        Indices of the items, the most expensive first.
    """
    order = sorted(range(len(costs)), key=lambda index: -costs[index])
    alone: list[int] = []
    for index in order:
        rest = sum(costs[other] for other in order[len(alone) + 1 :])
        if workers > 1 and costs[index] <= alone_above and costs[index] * (workers - 1) <= rest:
            break
        alone.append(index)
    return alone, order[len(alone) :]


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    costs: Sequence[float],
    alone_above: float,
    done: Callable[[int], None],
) -> list[Result]:
    """The function's result for every item, in their order.

    Parameters
    ----------
    function
        Computes one item; should spend its time in torch, which releases Python's global lock.
    items
        Arguments of the function.
    costs
        Relative cost of each item.
    alone_above
        Items more expensive than this always run alone.
    done
        Called in this thread with the index of each item once it is computed.

    Raises
    ------
    Exception
        The first error of the function; items not yet started are dropped.
    """
    threads = torch.get_num_threads()
    workers = min(threads, _MOST_WORKERS, len(items))
    alone, together = alone_and_together(costs, workers, alone_above)
    results: dict[int, Result] = {}
    for index in alone:
        results[index] = function(items[index])
        done(index)
        interrupt_if_pressed()
    if together:
        # The number that a worker sets becomes the default of later threads of the process: it is given back.
        number = Switch(torch.get_num_threads, torch.set_num_threads, threads)
        with restored_after(number.change, number.restore):
            pool = concurrent.futures.ThreadPoolExecutor(
                workers, thread_name_prefix="amct", initializer=torch.set_num_threads, initargs=(threads // workers,)
            )
            try:
                futures = {pool.submit(function, items[index]): index for index in together}
                for future in concurrent.futures.as_completed(futures):
                    index = futures[future]
                    results[index] = future.result()
                    done(index)
                    interrupt_if_pressed()
            finally:
                pool.shutdown(cancel_futures=True)
    return [results[index] for index in range(len(items))]
