"""Copies of models and inputs on a device. What the user gave stays where and as it is."""

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
from ..errors import ConfigError, ConfigTypeError, DeviceError, InputsError
from .arguments import setting_error
from .inputs import batch_size_of
from .tensors import map_tensors


def backend_of(backend: str | Backend) -> Backend:
    """The backend itself, or the one of this name."""
    if isinstance(backend, Backend):
        return backend
    if isinstance(backend, str):
        return get_backend(backend)
    raise ConfigTypeError(f"backend must be a name or a Backend, found {backend!r}")


def checked_dtypes(dtypes: Sequence[torch.dtype] | None, model: nn.Module, info: DeviceInfo) -> list[torch.dtype]:
    """The types to run a model in: as asked, or that of its weights.

    Raises
    ------
    ConfigError
        One is no type that the device computes convolutions in.
    """
    if dtypes is None:
        floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
        dtypes = [next(floating, torch.float32)]
    are_types = isinstance(dtypes, Collection) and all(isinstance(dtype, torch.dtype) for dtype in dtypes)
    if not are_types or not dtypes:
        raise setting_error(f"dtypes must be a list of torch.dtype, found {dtypes!r}", of_right_type=are_types)
    for dtype in dtypes:
        if dtype not in info.dtypes:
            raise ConfigError(
                f"{info.backend}:{info.index} ({info.name}) does not compute convolutions in {name_of(dtype)}: "
                f"choose among {', '.join(map(name_of, info.dtypes))} with dtypes=[…]"
            )
    return list(dict.fromkeys(dtypes))


def placed_model(model: nn.Module, backend: Backend, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy of the model in eval mode on the device, its floating-point weights in this type.

    Raises
    ------
    DeviceError
        The model cannot be copied or moved. Out of memory is raised as it comes.
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
    """The inputs copied to the device, floating-point tensors in this type.

    Raises
    ------
    InputsError
        One has no values: it is on the meta device.
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
    """Release the device's memory that the block took, also where only reference cycles still hold it."""
    try:
        yield
    finally:
        gc.collect()
        backend.release_memory(device)


def ran_out_of_memory(backend: Backend, error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, says that the device's memory does not suffice."""
    while error is not None:
        if backend.is_out_of_memory(error):
            return True
        error = error.__cause__
    return False


@contextlib.contextmanager
def memory_errors_named(backend: Backend, device: torch.device, inputs: Any) -> Iterator[None]:
    """Raise a `DeviceError` that says what to do where the memory of the device does not suffice."""
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(backend, error):
            raise
        raise DeviceError(
            f"the memory of {device} does not suffice for both models and a batch of {batch_size_of(inputs)}: "
            f"give fewer or smaller inputs, or a smaller dtype ({error})"
        ) from error
