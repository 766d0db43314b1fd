"""Independent heavy computations side by side, within the number of threads that the user gives torch."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# With more, each has few threads for its matrix products, and as many working sets are in memory at once.
_MOST_WORKERS = 8


def alone_and_together(costs: Sequence[float], workers: int, alone_above: float) -> tuple[list[int], list[int]]:
    """Which items to compute one by one with every thread, and which side by side.

    An item goes alone if it costs more than ``alone_above``, as its working set is large, or more than all
    the items that could run beside it would fill.

    Returns
    -------
    (alone, together)
        Indices, the most expensive first.
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
        Spends its time in torch, which lets other Python threads run meanwhile.
    costs
        Relative cost of each item.
    alone_above
        Items more expensive than this never run beside others.
    done
        Called in this thread with the index of each item when it is computed.

    Raises
    ------
    Exception
        The first that the function raises; items not yet begun are dropped.
    """
    threads = torch.get_num_threads()
    workers = min(threads, _MOST_WORKERS, len(items))
    alone, together = alone_and_together(costs, workers, alone_above)
    results: dict[int, Result] = {}
    for index in alone:
        results[index] = function(items[index])
        done(index)
    if together:
        pool = concurrent.futures.ThreadPoolExecutor(
            workers, thread_name_prefix="amct", initializer=torch.set_num_threads, initargs=(threads // workers,)
        )
        try:
            futures = {pool.submit(function, items[index]): index for index in together}
            for future in concurrent.futures.as_completed(futures):
                index = futures[future]
                results[index] = future.result()
                done(index)
        finally:
            pool.shutdown(cancel_futures=True)
            # What a worker sets is what later threads of the process begin with.
            torch.set_num_threads(threads)
    return [results[index] for index in range(len(items))]
