"""Several processes that decompose one model together: who does what, and how all learn of it, or of a failure.

Processes that torch.distributed joins exchange plain Python values over a group of their own (gloo, between the
hosts, whatever the training uses). Every exchange carries either a value or a failure of every rank, and there is a
last one when the work ends. So a rank that fails, wherever it is, fails all of them, and none is left waiting.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from ..errors import RankFailed

Value = TypeVar("Value")

# How long a rank may be late to begin with, and how long others may compute before it is taken for lost. One whose
# process ends is noticed at once.
_ARRIVAL = datetime.timedelta(minutes=5)
_WORK = datetime.timedelta(hours=2)


class Team:
    """The processes that work together; one alone where torch.distributed joins none.

    Attributes
    ----------
    rank, size
        Number of this process, and how many there are.
    """

    def __init__(self, group: distributed.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank = distributed.get_rank(group) if group else 0
        self.size = distributed.get_world_size(group) if group else 1

    def gather(self, value: Value) -> list[Value]:
        """The value of every rank, in the order of ranks.

        Raises
        ------
        RankFailed
            Another rank has failed, with its message; or is gone.
        """
        return self._exchange((True, value)) if self._group else [value]

    def from_first(self, function: Callable[[], Value]) -> Value:
        """What a function gives on rank 0, on every rank: the others need not compute it, and might round otherwise."""
        own = function() if self.rank == 0 else None
        return cast(Value, self.gather(own)[0])

    def fail(self, error: BaseException) -> None:
        """Tell the others, at whatever exchange they are, that this rank has failed."""
        if self._group:
            with contextlib.suppress(RankFailed):
                self._exchange((False, f"{type(error).__name__}: {error}"))

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks of a tensor on the host, in place and the same on all to the last bit.

        It is no exchange that a failure can take the place of: a `gather` must come right before it.
        """
        if self._group:
            with _peers_may_go():
                distributed.all_reduce(tensor, group=self._group)
        return tensor

    def mine(self, costs: Sequence[float]) -> list[int]:
        """Indices of the items for this rank to do, of all with these costs: the dearest first, to whom has least."""
        load = [0.0] * self.size
        own = []
        for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
            rank = min(range(self.size), key=load.__getitem__)
            load[rank] += costs[index]
            if rank == self.rank:
                own.append(index)
        return sorted(own)

    def _exchange(self, own: tuple[bool, Any]) -> list[Any]:
        told: list[Any] = [None] * self.size
        with _peers_may_go():
            distributed.all_gather_object(told, own, group=self._group)
        failures = [f"rank {rank} failed: {text}" for rank, (fine, text) in enumerate(told) if not fine]
        if failures:
            raise RankFailed("; ".join(failures))
        return [value for _, value in told]


@contextlib.contextmanager
def team(wanted: bool) -> Iterator[Team]:
    """The team for a piece of work that every rank begins and ends, or fails in, alike.

    Parameters
    ----------
    wanted
        Whether to work together where torch.distributed is initialised.

    Raises
    ------
    RankFailed
        Another rank has failed, is gone, or does not arrive.
    """
    if not wanted or not distributed.is_available() or not distributed.is_initialized():
        yield Team()
        return
    if distributed.get_world_size() == 1:
        yield Team()
        return
    together = Team(_group())
    try:
        yield together
        together.gather(None)
    except RankFailed:
        raise
    except BaseException as error:
        together.fail(error)
        raise
    finally:
        if together._group is not None:
            with contextlib.suppress(Exception):  # of a group whose ranks are gone nothing is left to end
                distributed.destroy_process_group(together._group)


def _group() -> distributed.ProcessGroup:
    try:
        group = distributed.new_group(backend="gloo", timeout=_WORK)
        distributed.monitored_barrier(group, timeout=_ARRIVAL)
    except Exception as error:
        raise RankFailed(
            f"not every rank came to decompose within {_ARRIVAL}: call auto_decomposition or plan_decomposition on "
            f"every rank of the process group, or with distributed=False on one ({error})"
        ) from error
    return cast(distributed.ProcessGroup, group)


@contextlib.contextmanager
def _peers_may_go() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's word for a connection that ends
        raise RankFailed(
            f"another rank is gone, or has not answered for {_WORK}: look at its output, and start all again ({error})"
        ) from error
