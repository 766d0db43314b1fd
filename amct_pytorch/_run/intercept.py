"""Temporary hooks and replaced forwards of layers, and the input shapes seen by such hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .inputs import run_model
from .isolation import leaving_no_trace

Forward = Callable[[Tensor], Tensor]
"""The function of a layer, from its input to its response."""


@contextlib.contextmanager
def watched(layers: Iterable[nn.Module], record: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Observe the inputs of layers during a block.

    Parameters
    ----------
    layers
        The layers.
    record
        Called with (layer, input) each time one of the layers runs.
    """

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record(layer, args[0] if args else kwargs["input"])

    with contextlib.ExitStack() as stack:
        for layer in layers:
            # Before the user's own hooks, which may fail, or draw random numbers.
            stack.callback(layer.register_forward_pre_hook(hook, prepend=True, with_kwargs=True).remove)
        yield


@contextlib.contextmanager
def acting(functions: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Replace what layers compute during a block; the user's own hooks still run.

    Parameters
    ----------
    functions
        The function to compute instead, by layer.
    """
    with contextlib.ExitStack() as stack:
        for layer, function in functions.items():
            own = vars(layer)
            # The layer may have its own forward: a library that loads weights lazily sets one.
            if "forward" in own:
                stack.callback(own.__setitem__, "forward", own["forward"])
            else:
                stack.callback(own.pop, "forward", None)
            own["forward"] = function
        yield


def input_shapes(model: nn.Module, layers: Sequence[nn.Module], example_inputs: object) -> list[list[torch.Size]]:
    """Shapes of the inputs that reach each layer when the model runs once on the example inputs, in eval mode.

    Parameters
    ----------
    model
        The model, left as it was.
    layers
        Layers of the model.
    example_inputs
        A tensor is passed as the only argument, a tuple or list as positional arguments, a mapping as keyword
        arguments. They must be on the device of the model.

    Returns
    -------
    list of list of torch.Size
        For each layer, the input shape of each of its calls.

    Raises
    ------
    InputsError
        The model fails on the inputs, or has lazy layers that were never run.
    """
    shapes: dict[nn.Module, list[torch.Size]] = {layer: [] for layer in layers}

    def record(layer: nn.Module, arrived: Tensor) -> None:
        shapes[layer].append(arrived.shape)

    with leaving_no_trace(model), watched(layers, record):
        run_model(model, example_inputs, "example_inputs")
    return [shapes[layer] for layer in layers]
