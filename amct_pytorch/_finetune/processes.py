"""The processes of a training run: a single one, or those started by torchrun, each with one device."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..backend import Backend
from ..errors import AmctError, ConfigError, DeviceError

# torch.distributed's backend, by the name of the device's.
_COLLECTIVES = {"cpu": "gloo", "cuda": "nccl", "npu": "hccl"}

# Words in their errors when another process has ended or does not answer: those of gloo and c10d, of NCCL, and of HCCL,
# whose own codes are EI0001 to EI0009.
_LOST = re.compile(
    r"gloo|c10d|connection|socket|timed out|times out|\btimeout\b"
    r"|ncclRemoteError|ncclSystemError|NCCL communicator was aborted|EI000\d",
    re.IGNORECASE,
)

# Error codes of CANN's runtime. A notification that another process should have sent is the only one of 507… that is
# not the device's own failure.
_CANN_ERROR = re.compile(r"\b507\d{3}\b")
_NOTIFICATION_MISSING = "507048"

# Seconds that HCCL may take for the first exchange, in which it connects the devices: HCCL_CONNECT_TIMEOUT is 120 at
# least. And seconds that torch's watchdog, which ends the process, leaves HCCL to raise its own error first.
_FIRST_EXCHANGE = 140
_WATCHDOG_LATER = 30


@dataclass(frozen=True)
class Processes:
    """The current process, among the processes of the run.

    Attributes
    ----------
    index, count
        Number of this process, from 0, and number of all processes.
    device
        The device that this process trains on.
    """

    index: int
    count: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.index == 0

    def wrapped(self, net: nn.Module) -> nn.Module:
        """The model in a wrapper that averages gradients over the processes, with the values of process 0."""
        if self.count == 1:
            return net
        return DistributedDataParallel(net, device_ids=None if self.device.type == "cpu" else [self.device.index])

    def share_values(self, net: nn.Module, *, buffers_only: bool = False) -> None:
        """Copy the values of process 0 to every process."""
        if self.count > 1:
            tensors = list(net.buffers()) if buffers_only else [*net.parameters(), *net.buffers()]
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def first_of(self, value: float) -> float:
        """The value of process 0."""
        found = [value]
        if self.count > 1:
            dist.broadcast_object_list(found, 0, device=self.device)
        return found[0]

    def agree(self, what: str, found: object) -> None:
        """Check that a value is the same in every process.

        Raises
        ------
        DeviceError
            It differs.
        """
        if self.count == 1:
            return
        everywhere: list[object] = [None] * self.count
        dist.all_gather_object(everywhere, found)
        if any(other != everywhere[0] for other in everywhere):
            raise DeviceError(f"{what} differs between the processes: {everywhere}")


@contextlib.contextmanager
def processes(backend: Backend, index: int, timeout: float) -> Iterator[Processes]:
    """Join the process group if the environment is torchrun's.

    Parameters
    ----------
    backend
        The backend of the devices.
    index
        Number of the device of a single process; under torchrun LOCAL_RANK is used instead.
    timeout
        Seconds that a process waits for the others, at the start and at every exchange; on NPUs the first exchange may
        take longer, see `group_timeout`.

    Raises
    ------
    DeviceError
        The other processes cannot be reached.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0")) if count > 1 else index
    device = backend.device(local) if backend.name != "cpu" else torch.device("cpu")
    if device.type != "cpu":
        torch.get_device_module(device).set_device(device)
    if count == 1:
        yield Processes(0, 1, device)
        return
    name = _COLLECTIVES.get(backend.name) or dist.get_default_backend_for_device(device)
    try:
        _reach_first(timeout)
        dist.init_process_group(name, timeout=timedelta(seconds=group_timeout(name, timeout, os.environ)))
    except (RuntimeError, ValueError, OSError) as error:  # base classes of torch's errors
        where = ":".join(os.environ.get(key, f"${key}") for key in ("MASTER_ADDR", "MASTER_PORT"))
        raise DeviceError(
            f"process {os.environ.get('RANK')} of {count} did not meet the others at {where} within {timeout:.0f} s "
            f"with {name}: start all of them, and check address, port and firewall ({error})"
        ) from error
    try:
        yield Processes(dist.get_rank(), count, device)
    except RuntimeError as error:
        if isinstance(error, AmctError) or not is_of_a_lost_process(str(error)):
            raise
        raise DeviceError(
            f"process {os.environ.get('RANK')} of {count} lost another, which failed, was killed, or did not answer "
            f"for {timeout:.0f} s: see what that said, then start all again ({error})"
        ) from error
    # Not after an error, as the others may never get here; the end of the process closes its connections.
    dist.destroy_process_group()


def group_timeout(name: str, timeout: float, environment: MutableMapping[str, str]) -> float:
    """Seconds after which torch gives up an exchange; on NPUs also sets those after which HCCL does, unless given.

    Parameters
    ----------
    name
        torch.distributed's backend.
    timeout
        Seconds that a process is to wait for the others.
    environment
        The variables of the process; HCCL reads HCCL_EXEC_TIMEOUT when the group is made.

    Raises
    ------
    ConfigError
        HCCL_EXEC_TIMEOUT is not a number.
    """
    if name != "hccl":
        return timeout
    given = environment.setdefault("HCCL_EXEC_TIMEOUT", str(math.ceil(timeout)))
    try:
        longest = float(given)
    except ValueError as error:
        raise ConfigError(f"HCCL_EXEC_TIMEOUT must be a number of seconds, found {given!r}") from error
    return max(timeout, longest, _FIRST_EXCHANGE) + _WATCHDOG_LATER


def is_of_a_lost_process(message: str) -> bool:
    """Whether an error of torch says that another process has ended or does not answer.

    Parameters
    ----------
    message
        The text of the error. Errors of the device itself may speak of time-outs too.
    """
    codes = _CANN_ERROR.findall(message)
    if codes:
        return _NOTIFICATION_MISSING in codes
    return "cuda error" not in message.lower() and bool(_LOST.search(message))


def _reach_first(timeout: float) -> None:
    """Wait until process 0 listens at its address: torch would wait a timeout for each kind of address."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if os.environ.get("RANK") == "0" or not address or not port:
        return  # torch reports what is missing
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((address, int(port)), max(end - time.monotonic(), 0.1)).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.2)


def digest(state: Mapping[str, Any]) -> str:
    """SHA-256 of a state dict: equal for equal names, types, shapes and bits."""
    total = hashlib.sha256()
    for key, value in state.items():
        total.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
