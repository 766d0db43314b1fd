"""Temporarily replaced forwards of layers, and the input shapes seen in their places."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .inputs import run_model
from .isolation import leaving_no_trace

Forward = Callable[..., Tensor]
"""The function of a layer, from its input to its response."""


@contextlib.contextmanager
def watched(layers: Iterable[nn.Module], record: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Observe the inputs that the forward methods of layers get during a block.

    Parameters
    ----------
    layers
        The layers.
    record
        Called with (layer, input) each time one of the layers runs.
    """

    def watching(layer: nn.Module) -> Forward:
        forward = layer.forward

        def watched_forward(*args: Any, **kwargs: Any) -> Tensor:
            record(layer, args[0] if args else kwargs["input"])
            return cast(Tensor, forward(*args, **kwargs))

        return watched_forward

    # In the place of forward, as hooks of the user's may give the layer another input than it is called with.
    with acting({layer: watching(layer) for layer in layers}):
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
