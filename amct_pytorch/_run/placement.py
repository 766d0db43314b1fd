"""Copies of models and inputs on a device; the user's own objects stay unchanged where they are."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .._report.units import name_of
from ..backend import Backend, DeviceInfo, get_backend
from ..errors import ConfigError, ConfigTypeError, DeviceError, InputsError, quoted
from .arguments import setting_error
from .inputs import batch_size_of
from .tensors import map_tensors


def backend_of(backend: str | Backend) -> Backend:
    """The backend that an argument means.

    Parameters
    ----------
    backend
        A `Backend`, or the name of one.

    Raises
    ------
    BackendUnavailable
        No such backend is installed, or it cannot be used.
    ConfigTypeError
        The argument is neither.
    """
    if isinstance(backend, Backend):
        return backend
    if isinstance(backend, str):
        return get_backend(backend)
    raise ConfigTypeError(f"backend must be a name or a Backend, found {quoted(backend)}")


def checked_dtypes(dtypes: Sequence[torch.dtype] | None, model: nn.Module, info: DeviceInfo) -> list[torch.dtype]:
    """The floating-point types to run a model in, each once.

    Parameters
    ----------
    dtypes
        The user's choice; None for the type of the model's weights.
    model
        The model to run.
    info
        The device to run on.

    Raises
    ------
    ConfigError
        The list is empty, or the device does not compute convolutions in a type; `ConfigTypeError` if it is not a list
        of types.
    """
    if dtypes is None:
        floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
        dtypes = [next(floating, torch.float32)]
    are_types = isinstance(dtypes, Collection) and all(isinstance(dtype, torch.dtype) for dtype in dtypes)
    if not are_types or not dtypes:
        raise setting_error(f"dtypes must be a list of torch.dtype, found {quoted(dtypes)}", of_right_type=are_types)
    for dtype in dtypes:
        if dtype not in info.dtypes:
            raise ConfigError(
                f"{info.backend}:{info.index} ({info.name}) does not compute convolutions in {name_of(dtype)}: "
                f"choose among {', '.join(map(name_of, info.dtypes))} with dtypes=[…]"
            )
    return list(dict.fromkeys(dtypes))


def placed_model(model: nn.Module, backend: Backend, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy of a model in eval mode on a device.

    Parameters
    ----------
    model
        The model, on any device.
    backend, device
        The backend, and its device to copy to.
    dtype
        The type of the copy's floating-point weights and buffers.

    Raises
    ------
    DeviceError
        The model cannot be copied or moved.
    Exception
        The device's own error if it runs out of memory.
    """
    try:
        duplicate = copy.deepcopy(model).eval()
    except Exception as error:
        raise DeviceError(
            f"the model cannot be copied to {device} ({type(error).__name__}: {error}): copy.deepcopy(model) must work"
        ) from error
    try:
        if not backend.channels_last:
            duplicate.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # documented, not typed
        return duplicate.to(device=device, dtype=dtype)
    except Exception as error:
        if backend.is_out_of_memory(error):
            raise
        raise DeviceError(
            f"the model cannot be moved to {device} in {name_of(dtype)} ({type(error).__name__}: {error})"
        ) from error


def placed_inputs(inputs: Any, backend: Backend, device: torch.device, dtype: torch.dtype) -> Any:
    """Copies of inputs on a device.

    Parameters
    ----------
    inputs
        Tensors in any structure of containers, on any device.
    backend, device
        The backend, and its device to copy to.
    dtype
        The type of the copies of floating-point tensors; others keep theirs.

    Raises
    ------
    InputsError
        A tensor is on the meta device and has no values.
    """

    def place(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_meta:
            raise InputsError("the inputs are on the meta device: give tensors that hold values")
        tensor = tensor.detach()
        if not backend.channels_last:
            tensor = tensor.contiguous()
        return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    return map_tensors(place, inputs)


@contextlib.contextmanager
def released(backend: Backend, device: torch.device) -> Iterator[None]:
    """Release the memory that a block allocated on a device, including that held by reference cycles only.

    Parameters
    ----------
    backend, device
        The backend, and its device.
    """
    try:
        yield
    finally:
        gc.collect()
        backend.release_memory(device)


def ran_out_of_memory(backend: Backend, error: BaseException | None) -> bool:
    """Whether an exception, or one of its causes, means that the device ran out of memory.

    Parameters
    ----------
    backend
        The backend of the device.
    error
        The exception; None if there was none.
    """
    while error is not None:
        if backend.is_out_of_memory(error):
            return True
        error = error.__cause__
    return False


@contextlib.contextmanager
def memory_errors_named(backend: Backend, device: torch.device, inputs: Any) -> Iterator[None]:
    """Turn an out-of-memory error of a block into a `DeviceError` that says what to do.

    Parameters
    ----------
    backend, device
        The backend, and its device.
    inputs
        The inputs that the block runs, whose batch size the message states.

    Raises
    ------
    DeviceError
        The device ran out of memory.
    """
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(backend, error):
            raise
        raise DeviceError(
            f"the memory of {device} does not suffice for both models and a batch of {batch_size_of(inputs)}: "
            f"give fewer or smaller inputs, or a smaller dtype ({error})"
        ) from error
