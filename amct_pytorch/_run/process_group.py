"""Several processes that decompose one model together: who does what, and how each learns of the others' failure.

Processes that torch.distributed joins exchange plain Python values over a group of their own (gloo, between the
hosts, whatever the training uses). At every exchange each process gives either a value or its failure, and there is a
last exchange when the work ends. So a process that fails, wherever it is, fails all of them, and none is left waiting.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from ..errors import ProcessFailed

Value = TypeVar("Value")

# Processes begin together but for the time that each takes to load its model and data, which is minutes at most.
_ARRIVAL = datetime.timedelta(minutes=5)

# Between two exchanges a process computes its share, which takes minutes; hours only on an overloaded host. One that
# hangs is given up after this; one that ends closes its connection, which the others notice at once.
_WORK = datetime.timedelta(hours=2)


class ProcessGroup:
    """The processes that work together; one alone where torch.distributed joins none.

    Attributes
    ----------
    index, size
        Number of this process among them, from 0 on, and how many they are.
    """

    def __init__(self, group: distributed.ProcessGroup | None = None) -> None:
        self._group = group
        self.index = distributed.get_rank(group) if group else 0
        self.size = distributed.get_world_size(group) if group else 1

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, in their order.

        Raises
        ------
        ProcessFailed
            Another process has failed, with its message; or is gone.
        """
        return self._exchange((True, value)) if self._group else [value]

    def from_first(self, function: Callable[[], Value]) -> Value:
        """What a function gives in process 0, for all: the others need not compute it, and might round otherwise."""
        own = function() if self.index == 0 else None
        return cast(Value, self.gather(own)[0])

    def fail(self, error: BaseException) -> None:
        """Let the others know, at whatever exchange they are, that this process has failed."""
        if self._group:
            with contextlib.suppress(ProcessFailed):
                self._exchange((False, f"{type(error).__name__}: {error}"))

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a tensor on the host, in place and the same for all to the last bit.

        It is no exchange that a failure can take the place of: a `gather` must come right before it.
        """
        if self._group:
            with _peers_may_go():
                distributed.all_reduce(tensor, group=self._group)
        return tensor

    def mine(self, costs: Sequence[float]) -> list[int]:
        """Which items this process is to do, of items with these costs.

        Longest-first scheduling: the most expensive item that is left goes to the process with the least to do.

        Returns
        -------
        list of int
            Indices, ascending.
        """
        load = [0.0] * self.size
        own = []
        for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
            process = min(range(self.size), key=load.__getitem__)
            load[process] += costs[item]
            if process == self.index:
                own.append(item)
        return sorted(own)

    def _exchange(self, own: tuple[bool, Any]) -> list[Any]:
        answers: list[Any] = [None] * self.size
        with _peers_may_go():
            distributed.all_gather_object(answers, own, group=self._group)
        failures = [f"process {process} failed: {text}" for process, (fine, text) in enumerate(answers) if not fine]
        if failures:
            raise ProcessFailed("; ".join(failures))
        return [value for _, value in answers]


@contextlib.contextmanager
def joined_processes(wanted: bool) -> Iterator[ProcessGroup]:
    """The processes for a piece of work that each begins and ends, or fails in, like the others.

    Parameters
    ----------
    wanted
        Whether to work together where torch.distributed is initialised.

    Raises
    ------
    ProcessFailed
        Another process has failed, is gone, or does not arrive.
    """
    if not wanted or not distributed.is_available() or not distributed.is_initialized():
        yield ProcessGroup()
        return
    if distributed.get_world_size() == 1:
        yield ProcessGroup()
        return
    group = _new_group()
    together = ProcessGroup(group)
    try:
        yield together
        together.gather(None)
    except ProcessFailed:
        raise
    except BaseException as error:
        together.fail(error)
        raise
    finally:
        with contextlib.suppress(Exception):  # of a group whose other processes are gone nothing is left to end
            distributed.destroy_process_group(group)


def _new_group() -> distributed.ProcessGroup:
    try:
        group = distributed.new_group(backend="gloo", timeout=_WORK)
        distributed.monitored_barrier(group, timeout=_ARRIVAL)
    except Exception as error:
        raise ProcessFailed(
            f"not every process came to decompose within {_ARRIVAL}: call auto_decomposition or plan_decomposition in "
            f"every process of the process group, or with distributed=False in one ({error})"
        ) from error
    return cast(distributed.ProcessGroup, group)


@contextlib.contextmanager
def _peers_may_go() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo raises when a connection ends
        raise ProcessFailed(
            f"another process is gone, or has not answered for {_WORK}: look at its output, and start all again "
            f"({error})"
        ) from error
