"""The user's inputs, and how to call a model on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import AmctError, InputsError, shown
from .tensors import is_finite, map_tensors


def checked_inputs(inputs: object, called: str) -> Any:
    """The inputs as `call_with` takes them: a tensor, a tuple or list, or a dict.

    Parameters
    ----------
    inputs
        What the user passed.
    called
        Name of the argument, for messages.

    Raises
    ------
    InputsError
        The inputs have another type.
    """
    if not isinstance(inputs, Tensor | tuple | list | Mapping):
        raise InputsError(
            f"{called} must be a tensor, a tuple of arguments or a mapping of keywords, found {type(inputs).__name__}"
        )
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def read_batches(batches: Iterable[Any], what: str) -> Iterator[Any]:
    """Batches of the user's, whose errors are those of the data.

    Parameters
    ----------
    batches
        What gives them.
    what
        Which fail, for the message.

    Raises
    ------
    InputsError
        No next batch can be had.
    """
    count = 0
    try:
        for batch in batches:
            yield batch
            count += 1
    except AmctError:
        raise
    except Exception as error:
        raise InputsError(f"{what} at batch {count}: {type(error).__name__}: {shown(error)}") from error


def check_samples(inputs: Any) -> None:
    """Check that there is a sample among the inputs.

    Parameters
    ----------
    inputs
        Tensors in any structure of containers.

    Raises
    ------
    InputsError
        Every tensor that has axes has none along the first one.
    """
    lengths = [tensor.size(0) for tensor in tensors_of(inputs) if tensor.dim()]
    if lengths and not any(lengths):
        raise InputsError(f"the inputs ({described(inputs)}) hold no sample: give at least one")


def check_finite(inputs: Any) -> None:
    """Check that no floating-point tensor among the inputs contains NaN or infinity.

    Parameters
    ----------
    inputs
        Tensors in any structure of containers.

    Raises
    ------
    InputsError
        A tensor does; the message has its shape.
    """
    for tensor in tensors_of(inputs):
        if tensor.is_floating_point() and not tensor.is_meta and not is_finite(tensor):
            raise InputsError(f"inputs of shape {tuple(tensor.shape)} hold NaN or infinity: nothing could be compared")


def run_model(model: Callable[..., object], inputs: object, called: str) -> object:
    """The outputs of a model on copies of the inputs.

    Parameters
    ----------
    model
        A model, or another callable.
    inputs
        A tensor, a tuple or list of positional arguments, or a mapping of keyword arguments; not changed.
    called
        Name of the inputs, for messages.

    Raises
    ------
    InputsError
        The inputs have another type, or the model fails on them.
    """
    # Copies, as the model may work in place.
    inputs = map_tensors(Tensor.clone, checked_inputs(inputs, called))
    try:
        return call_with(model, inputs)
    except Exception as error:
        as_arguments = (
            f": the list is taken as {len(inputs)} arguments; if the model takes a list, give a tuple of that one"
            if isinstance(inputs, list)
            else ""
        )
        raise InputsError(
            f"the model fails on {called} ({described(inputs)}): {type(error).__name__}: {error}{as_arguments}"
        ) from error


def call_with(model: Callable[..., object], inputs: Any) -> object:
    """Call a model on inputs.

    Parameters
    ----------
    model
        A model, or another callable.
    inputs
        A tensor is passed as the only argument, a tuple or list as positional arguments, a mapping as keyword
        arguments.
    """
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def described(inputs: object) -> str:
    """Shape, dtype and device of every tensor, as text for messages.

    Parameters
    ----------
    inputs
        Tensors in any structure of containers.
    """
    texts = [f"{_shape_of(tensor)} {tensor.dtype} on {tensor.device}" for tensor in tensors_of(inputs)]
    return ", ".join(texts) or "no tensors"


def _shape_of(tensor: Tensor) -> str:
    if tensor.is_nested and tensor.layout is torch.strided:  # which has no shape
        return f"{tensor.size(0)} nested"
    return str(tuple(tensor.shape))


def batch_size_of(inputs: Any) -> int | None:
    """The length of the first axis of the first tensor that has an axis; None if no tensor has one.

    Parameters
    ----------
    inputs
        Tensors in any structure of containers.
    """
    return next((tensor.size(0) for tensor in tensors_of(inputs) if tensor.dim()), None)


def resized(inputs: Any, batch: int) -> Any:
    """The inputs with another number of samples: the samples are repeated or cut.

    Parameters
    ----------
    inputs
        Tensors in any structure of containers. Those whose first axis has the length of `batch_size_of` are changed.
    batch
        The number of samples wanted.
    """
    now = batch_size_of(inputs)

    def resize(tensor: Tensor) -> Tensor:
        if not tensor.dim() or len(tensor) != now or now == batch or not now:
            return tensor
        return tensor[torch.arange(batch, device=tensor.device) % now]

    return map_tensors(resize, inputs)


def tensors_of(values: object) -> list[Tensor]:
    """All tensors in a structure of containers, in order.

    Parameters
    ----------
    values
        Tensors and other objects in any structure of containers.
    """
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
