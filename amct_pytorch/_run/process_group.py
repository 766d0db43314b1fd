"""Several processes that decompose one model together: how work is shared, and how a failure reaches all of them.

The processes of torch.distributed exchange plain Python values over a separate gloo group, whatever backend the
training uses. At every exchange each process sends either a value or its failure, and one more exchange ends the work.
So the failure of one process, at any point, fails all of them, and no process is left waiting.
"""

from __future__ import annotations

import contextlib
import datetime
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from ..errors import ProcessFailed, quoted
from .arguments import setting_error

Value = TypeVar("Value")

# How long to wait for all processes to start: they differ by the time to load model and data, minutes at most.
_ARRIVAL = datetime.timedelta(minutes=5)

# How long to wait at an exchange unless the user says otherwise: a process computes its share in minutes, on an
# overloaded host in hours. Only one that hangs or is stopped makes the others wait that long; one that ends closes its
# connections, which the others notice at once.
_WORK = datetime.timedelta(hours=2)


class ProcessGroup:
    """The processes that work together, possibly only this one.

    Parameters
    ----------
    group
        The group of torch.distributed to communicate over; None for this process alone.
    patience
        How long it waits at an exchange, for messages.

    Attributes
    ----------
    index, size
        Number of this process in the group, from 0, and number of all processes.
    """

    def __init__(self, group: distributed.ProcessGroup | None = None, patience: datetime.timedelta = _WORK) -> None:
        self._group, self._patience = group, patience
        self.index = distributed.get_rank(group) if group else 0
        self.size = distributed.get_world_size(group) if group else 1

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, in the order of their index.

        Parameters
        ----------
        value
            The value of this process; must be picklable.

        Raises
        ------
        ProcessFailed
            Another process failed, with its message, or ended.
        """
        return self._exchange((True, value)) if self._group else [value]

    def from_first(self, function: Callable[[], Value]) -> Value:
        """The result of a function in process 0, for all: the others save the work, and cannot round differently.

        Parameters
        ----------
        function
            Called in process 0 only; its result must be picklable.

        Raises
        ------
        ProcessFailed
            Another process failed, with its message, or ended.
        """
        own = function() if self.index == 0 else None
        return cast(Value, self.gather(own)[0])

    def fail(self, error: BaseException) -> None:
        """Report the failure of this process to the others, at their next exchange.

        Parameters
        ----------
        error
            Its type and message are sent.
        """
        if self._group:
            with contextlib.suppress(ProcessFailed):
                self._exchange((False, f"{type(error).__name__}: {error}"))

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place; the result is the same in all of them to the last bit.

        A failure cannot be reported in this exchange, so a `gather` must come right before it.

        Parameters
        ----------
        tensor
            On the host, of the same shape and type in every process.

        Raises
        ------
        ProcessFailed
            Another process ended.
        """
        if self._group:
            with _peers_may_go(self._patience):
                distributed.all_reduce(tensor, group=self._group)
        return tensor

    def mine(self, costs: Sequence[float]) -> list[int]:
        """The items that this process is to do.

        Longest-first scheduling: the most expensive remaining item goes to the process with the least work.

        Parameters
        ----------
        costs
            Relative cost of each item, the same in every process.

        Returns
        -------
        list of int
            Indices of the items, ascending.
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
        # Pickled first, since reading a tensor from its device may fail, and that is no failure of another process.
        packed = pickle.dumps(own)
        received: list[Any] = [None] * self.size
        with _peers_may_go(self._patience):
            distributed.all_gather_object(received, packed, group=self._group)
        answers = [pickle.loads(each) for each in received]
        failures = [f"process {process} failed: {text}" for process, (fine, text) in enumerate(answers) if not fine]
        if failures:
            raise ProcessFailed("; ".join(failures))
        return [value for _, value in answers]


@contextlib.contextmanager
def joined_processes(wanted: bool | datetime.timedelta) -> Iterator[ProcessGroup]:
    """The processes that do the work of a block together; all enter and leave the block, or all fail.

    Parameters
    ----------
    wanted
        Whether to share the work if torch.distributed is initialised; or how long to wait for the others there.

    Raises
    ------
    ConfigTypeError, ConfigError
        It is neither, or no time at all.
    ProcessFailed
        Another process failed, ended, or did not enter the block.
    """
    patience = _checked_patience(wanted)
    if patience is None or not distributed.is_available() or not distributed.is_initialized():
        yield ProcessGroup()
        return
    if distributed.get_world_size() == 1:
        yield ProcessGroup()
        return
    group = _new_group(patience)
    together = ProcessGroup(group, patience)
    try:
        yield together
        together.gather(None)
    except ProcessFailed:
        raise
    except BaseException as error:
        together.fail(error)
        raise
    finally:
        with contextlib.suppress(Exception):  # after a failure the other processes may have ended
            distributed.destroy_process_group(group)


def _checked_patience(wanted: object) -> datetime.timedelta | None:
    """How long to wait for other processes; None where each works by itself."""
    if isinstance(wanted, bool):
        return _WORK if wanted else None
    is_time = isinstance(wanted, datetime.timedelta)
    if not is_time or cast(datetime.timedelta, wanted) <= datetime.timedelta():
        raise setting_error(
            f"distributed must be True, False, or a datetime.timedelta above 0, found {quoted(wanted)}",
            of_right_type=is_time,
        )
    return cast(datetime.timedelta, wanted)


def _new_group(patience: datetime.timedelta) -> distributed.ProcessGroup:
    from torch.distributed.distributed_c10d import _set_pg_timeout  # builds of torch without distributed have none

    arrival = min(_ARRIVAL, patience)
    try:
        # The group itself is made by exchanging addresses: with its own timeout, an absent process would be waited for
        # as long as a working one.
        group = distributed.new_group(backend="gloo", timeout=arrival)
        distributed.monitored_barrier(group, timeout=arrival)
        _set_pg_timeout(patience, group)
    except Exception as error:
        raise ProcessFailed(
            f"not every process came to decompose within {arrival}: call auto_decomposition or plan_decomposition in "
            f"every process of the process group, or with distributed=False in one ({error})"
        ) from error
    return cast(distributed.ProcessGroup, group)


@contextlib.contextmanager
def _peers_may_go(patience: datetime.timedelta) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's error for a closed connection, or for none that answers
        raise ProcessFailed(
            f"another process is gone, or has not answered for {patience}: look at its output, and start all again "
            f"({error})"
        ) from error
