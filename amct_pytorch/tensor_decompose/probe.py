"""Run a model on example inputs and see what sizes reach its convolutions, leaving no trace in the model."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from ..errors import InputsError
from .conv import Pair

Calls = list[tuple[int, Pair]]
"""For each call of a layer: number of images, and their (height, width)."""


def input_sizes(model: nn.Module, layers: Sequence[nn.Module], example_inputs: object) -> list[Calls]:
    """The inputs that reach each layer when the model runs once on the example inputs, in eval mode.

    Parameters
    ----------
    model
        Where it is; the inputs must be on the same device.
    layers
        Layers of the model whose inputs are (N, C, H, W) or (C, H, W).
    example_inputs
        A tensor is given as the only argument, a tuple or list as positional ones, a mapping as keywords.

    Raises
    ------
    InputsError
        The model fails on the inputs, or holds lazy layers that were never run.
    """
    lazy = [name for name, module in model.named_modules() if _is_uninitialised(module)]
    if lazy:
        raise InputsError(
            f"the model cannot be run without changing it: {', '.join(lazy)} were never run "
            "and would take their shapes from example_inputs: run the model once, then decompose it"
        )
    calls: dict[nn.Module, Calls] = {layer: [] for layer in layers}

    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape = (args[0] if args else kwargs["input"]).shape
        calls[layer].append((shape[0] if len(shape) == 4 else 1, (shape[-2], shape[-1])))

    with contextlib.ExitStack() as stack:
        stack.enter_context(_untouched_generators(model))
        stack.enter_context(_untouched_state(model))
        for layer in layers:
            # In front of the user's own hooks, which may fail or draw in a way of theirs.
            handle = layer.register_forward_pre_hook(record, prepend=True, with_kwargs=True)
            stack.callback(handle.remove)
        with torch.no_grad():
            _run(model, example_inputs)
    return [calls[layer] for layer in layers]


def _run(model: nn.Module, inputs: object) -> object:
    """The model's outputs for a tensor, a tuple or list of arguments, or a mapping of keywords.

    Raises
    ------
    InputsError
        The inputs are of another type, or the model fails on them.
    """
    if not isinstance(inputs, torch.Tensor | tuple | list | Mapping):
        raise InputsError(
            "example_inputs must be a tensor, a tuple of arguments or a mapping of keywords, "
            f"found {type(inputs).__name__}"
        )
    if isinstance(inputs, Mapping):
        inputs = dict(inputs)
    # The model may work in place.
    inputs = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, inputs)
    try:
        if isinstance(inputs, torch.Tensor):
            return model(inputs)
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs)  # type: ignore[misc]  # a tuple or a list, after the check above
    except Exception as error:
        raise InputsError(
            f"the model fails on example_inputs ({_described(inputs)}): {type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def _untouched_generators(model: nn.Module) -> Iterator[None]:
    """Give the generators of Python, NumPy, and torch on the model's devices their state back afterwards."""
    python, numpy_, host = random.getstate(), np.random.get_state(), torch.get_rng_state()
    tensors = itertools.chain(model.parameters(), model.buffers())
    # Only these devices: to ask an unused one for its state would initialise it.
    devices = {tensor.device for tensor in tensors} - {torch.device("cpu"), torch.device("meta")}
    states = [(device, torch.get_device_module(device).get_rng_state(device)) for device in devices]
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


def _described(inputs: object) -> str:
    leaves, _ = tree_flatten(inputs)
    shapes = [f"{tuple(leaf.shape)} {leaf.dtype} on {leaf.device}" for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return ", ".join(shapes) or "no tensors"
