"""Load a state dict into a model as a whole or not at all: checked beforehand, undone if loading fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, listed


def check_fits(model: nn.Module, weights: Mapping[str, Any], place: Path) -> None:
    """Check that the names, shapes and types of weights are those of a model.

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
        A name, shape or type differs.
    """
    expected = model.state_dict()
    only = {"model": expected.keys() - weights.keys(), "checkpoint": weights.keys() - expected.keys()}
    for whose, names in only.items():
        if names:
            raise CheckpointError(
                f"{place}: only the {whose} has {listed(sorted(names))}: is this the checkpoint of another model?"
            )
    for name, value in expected.items():
        if _kind(value) != _kind(weights[name]):
            raise CheckpointError(
                f"{place}: {name!r}: expected {_kind(value)} as in the model, found {_kind(weights[name])}: load it "
                "into a model of the same configuration and dtype"
            )


@contextlib.contextmanager
def values_kept(model: nn.Module) -> Iterator[None]:
    """Restore every value of a model's state dict if the block fails.

    Parameters
    ----------
    model
        The model that the block changes.
    """
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
    return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
