"""Load a state dict into a model as a whole or not at all: checked beforehand, undone if loading fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, listed, quoted, shown


def load_whole(model: nn.Module, weights: Mapping[str, Any], place: Path) -> None:
    """Load weights into a model, if they are its own; after any error its values are as they were.

    Parameters
    ----------
    model
        The model to load into.
    weights
        A state dict.
    place
        The checkpoint's folder, for the message.

    Raises
    ------
    CheckpointError
        They are of another model, or the model's own hooks refuse them.
    """
    _check_fits(model, weights, place)
    try:
        with _values_kept(model):
            model.load_state_dict(weights)
    except Exception as error:  # of whatever type, from hooks and set_extra_state of the user's
        raise CheckpointError(
            f"{shown(place)}: the model does not take the weights ({type(error).__name__}): {error}"
        ) from error


def _check_fits(model: nn.Module, weights: Mapping[str, Any], place: Path) -> None:
    """Check that the names, shapes and types of weights are those of a model.

    Raises
    ------
    CheckpointError
        They are of another model.
    """
    expected = model.state_dict()
    only = {"model": expected.keys() - weights.keys(), "checkpoint": weights.keys() - expected.keys()}
    for whose, names in only.items():
        if names:
            raise CheckpointError(
                f"{shown(place)}: only the {whose} has {listed(sorted(names))}: is this the checkpoint of another "
                "model?"
            )
    for name, value in expected.items():
        if _kind(value) != _kind(weights[name]):
            raise CheckpointError(
                f"{shown(place)}: {quoted(name)}: expected {_kind(value)} as in the model, found "
                f"{_kind(weights[name])}: load it "
                "into a model of the same configuration and dtype"
            )


@contextlib.contextmanager
def _values_kept(model: nn.Module) -> Iterator[None]:
    """Put every value of a model back if the block fails."""
    tensors = [value for value in model.state_dict(keep_vars=True).values() if isinstance(value, torch.Tensor)]
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        raise


def _kind(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return f"an object {type(value).__name__}"
    dtype, layout = (str(kind).removeprefix("torch.") for kind in (value.dtype, value.layout))
    if value.is_nested:  # which has no shape
        return f"a nested tensor of {dtype}"
    of_layout = "a tensor" if layout == "strided" else f"a {layout} tensor"
    without_values = " without values, on the meta device" if value.is_meta else ""
    return f"{of_layout} {tuple(value.shape)} of {dtype}{without_values}"
