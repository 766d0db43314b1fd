"""Hooks and forwards that are put into a model for a while, and the shapes that are seen through them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .inputs import run_model
from .isolation import leaving_no_trace

Forward = Callable[[Tensor], Tensor]
"""What a layer computes: from its input to its response."""


@contextlib.contextmanager
def watched(layers: Iterable[nn.Module], record: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Call record(layer, input) each time that one of the layers runs during the block."""

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record(layer, args[0] if args else kwargs["input"])

    with contextlib.ExitStack() as stack:
        for layer in layers:
            # In front of the user's own hooks, which may fail, or draw random numbers.
            stack.callback(layer.register_forward_pre_hook(hook, prepend=True, with_kwargs=True).remove)
        yield


@contextlib.contextmanager
def acting(functions: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Let layers compute something else during the block, between the user's own hooks."""
    with contextlib.ExitStack() as stack:
        for layer, function in functions.items():
            own = vars(layer)
            # A library that loads weights only when a layer runs has put a forward of its own there before.
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

    def record(layer: nn.Module, arrived: Tensor) -> None:
        shapes[layer].append(arrived.shape)

    with leaving_no_trace(model), watched(layers, record):
        run_model(model, example_inputs, "example_inputs")
    return [shapes[layer] for layer in layers]
