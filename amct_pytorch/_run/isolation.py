"""Run a model on inputs of the user's and see what reaches its convolutions, leaving no trace in the model."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from ..errors import InputsError


def input_shapes(model: nn.Module, layers: Sequence[nn.Module], example_inputs: object) -> list[list[torch.Size]]:
    """Shapes of the inputs that reach each layer when the model runs once on the example inputs, in eval mode.

    Parameters
    ----------
    model
        Where it is; the inputs must be on the same device.
    layers
        Layers of the model.
    example_inputs
        A tensor is given as the only argument, a tuple or list as positional ones, a mapping as keywords.

    Returns
    -------
    list
        For each layer the shapes, one for each of its calls.

    Raises
    ------
    InputsError
        The model fails on the inputs, or holds lazy layers that were never run.
    """
    shapes: dict[nn.Module, list[torch.Size]] = {layer: [] for layer in layers}

    def record(layer: nn.Module, arrived: torch.Tensor) -> None:
        shapes[layer].append(arrived.shape)

    with leaving_no_trace(model), watched(layers, record):
        run_model(model, example_inputs, "example_inputs")
    return [shapes[layer] for layer in layers]


@contextlib.contextmanager
def leaving_no_trace(model: nn.Module) -> Iterator[None]:
    """Run a model inside: in eval mode, without gradients; afterwards modes, buffers and generators are as before.

    Raises
    ------
    InputsError
        The model holds lazy layers that were never run.
    """
    lazy = [name for name, module in model.named_modules() if _is_uninitialised(module)]
    if lazy:
        raise InputsError(
            f"the model cannot be run without changing it: {', '.join(lazy)} were never run "
            "and would take their shapes from the inputs: run the model once, then decompose it"
        )
    devices = {tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())}
    with untouched_generators(devices), _untouched_state(model), torch.no_grad():
        yield


@contextlib.contextmanager
def watched(layers: Iterable[nn.Module], record: Callable[[nn.Module, torch.Tensor], None]) -> Iterator[None]:
    """Call record(layer, input) each time that one of the layers runs during the block."""

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record(layer, args[0] if args else kwargs["input"])

    with contextlib.ExitStack() as stack:
        for layer in layers:
            # In front of the user's own hooks, which may fail or draw in a way of theirs.
            stack.callback(layer.register_forward_pre_hook(hook, prepend=True, with_kwargs=True).remove)
        yield


def run_model(model: Callable[..., object], inputs: object, called: str) -> object:
    """The model's outputs for a tensor, a tuple or list of arguments, or a mapping of keywords; these are not changed.

    Parameters
    ----------
    called
        What the user knows the inputs as, for messages.

    Raises
    ------
    InputsError
        The inputs are of another type, or the model fails on them.
    """
    # The model may work in place.
    inputs = map_tensors(torch.Tensor.clone, checked_inputs(inputs, called))
    try:
        return call_with(model, inputs)
    except Exception as error:
        raise InputsError(
            f"the model fails on {called} ({described(inputs)}): {type(error).__name__}: {error}"
        ) from error


def checked_inputs(inputs: object, called: str) -> Any:
    """The inputs as `call_with` takes them: a tensor, a tuple or list, or a dict.

    Raises
    ------
    InputsError
        They are of another type.
    """
    if not isinstance(inputs, torch.Tensor | tuple | list | Mapping):
        raise InputsError(
            f"{called} must be a tensor, a tuple of arguments or a mapping of keywords, found {type(inputs).__name__}"
        )
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def map_tensors(change: Callable[[torch.Tensor], object], values: Any) -> Any:
    """The same structure of containers with every tensor in it changed."""
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, torch.Tensor) else leaf, values)


def call_with(model: Callable[..., object], inputs: Any) -> object:
    """Call a model with a tensor as its only argument, with positional ones, or with keywords."""
    if isinstance(inputs, torch.Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


@contextlib.contextmanager
def untouched_generators(devices: Iterable[torch.device]) -> Iterator[None]:
    """Give the generators of Python, NumPy, and torch on the host and these devices their state back afterwards."""
    python, numpy_, host = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # Only these devices: to ask an unused one for its state would initialise it.
    others = set(devices) - {torch.device("cpu"), torch.device("meta")}
    states = [(device, torch.get_device_module(device).get_rng_state(device)) for device in others]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)
        torch.set_rng_state(host)
        for device, state in states:
            torch.get_device_module(device).set_rng_state(state, device)


@contextlib.contextmanager
def _untouched_state(model: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards every module's mode and every buffer's values as before."""
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    tables = [
        (module, dict(module._buffers), set(module._non_persistent_buffers_set))
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)  # its table cannot change
    ]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, buffers, non_persistent in tables:
            # As wholes, as a forward may register buffers or fill those that were None.
            module._buffers.clear()
            module._buffers.update(buffers)
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(non_persistent)
        for buffer, value in values:
            if not _is_same(buffer, value):
                _put_back(buffer, value)


def _is_same(buffer: torch.Tensor, value: torch.Tensor) -> bool:
    if buffer.is_meta or buffer.shape != value.shape or buffer.dtype != value.dtype:
        return buffer.shape == value.shape and buffer.dtype == value.dtype
    return bool(((buffer == value) | ((buffer != buffer) & (value != value))).all())  # NaN is not itself


def _put_back(buffer: torch.Tensor, value: torch.Tensor) -> None:
    with torch.inference_mode(buffer.is_inference()), torch.no_grad():
        try:
            buffer.copy_(value)
        except RuntimeError:  # resized, or several of its entries are one place in memory
            buffer.data = value


def _is_uninitialised(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params()


def described(inputs: object) -> str:
    """Shape, dtype and device of every tensor, in words."""
    leaves, _ = tree_flatten(inputs)
    shapes = [f"{tuple(leaf.shape)} {leaf.dtype} on {leaf.device}" for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return ", ".join(shapes) or "no tensors"
