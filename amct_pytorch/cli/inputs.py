"""`--input`: tensors of given shapes, or from files, as a model takes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._run.inputs import tensors_of
from .._run.tensors import is_finite
from ..errors import ConfigError, InputsError, quoted, shown
from .settings import dtype_of

# 1x3x224x224, then perhaps a type, then perhaps one more than the largest whole number.
_SHAPE = re.compile(r"(?P<sizes>\d+(x\d+)*)(:(?P<dtype>[a-z]\w*))?(:(?P<below>\d+))?")
_NAMED = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.+)", re.DOTALL)
_SUFFIXES = (".npy", ".npz", ".pt")


def inputs_of(given: Sequence[str] | None) -> Any:
    """The inputs that ``--input`` gives: a tensor, a tuple of arguments, a mapping of keywords; None for none.

    Parameters
    ----------
    given
        Shapes or files, each perhaps with a name in front: ``input_ids=1x128:int64:30522``. Values of a shape are
        random and always the same: normally distributed, or whole numbers below the one given, by default 2, as in a
        mask.

    Raises
    ------
    InputsError
        One is neither, a file cannot be read, a value is NaN or infinite, or some have names and others have not.
    """
    if not given:
        return None
    generator = torch.Generator("cpu").manual_seed(0)
    split = [_split(text) for text in given]
    values = [_value(text, generator) for _, text in split]
    for (_, text), value in zip(split, values, strict=True):
        check_values(value, f"--input {shown(text)}")
    names = [name for name, _ in split if name is not None]
    if not names:
        return values[0] if len(values) == 1 else tuple(values)
    if len(set(names)) < len(split):
        raise InputsError(f"--input: expected a name of its own for each of {len(split)} or for none, found {names}")
    return dict(zip(names, values, strict=True))


def required_inputs(given: Sequence[str] | None) -> Any:
    """As `inputs_of`, for a verb that cannot do without.

    Raises
    ------
    ConfigError
        None was given, besides.
    """
    if not given:
        raise ConfigError("--input is missing: give the shape of the model's inputs, such as 1x3x224x224, or a file")
    return inputs_of(given)


def read_tensors(path: Path, called: str) -> Any:
    """The tensors of a file.

    Parameters
    ----------
    path
        A file .npy (a tensor), .npz (arguments, or keywords if they have names), or .pt, of which only weights are
        loaded (whatever a model takes).
    called
        Where it was given, for messages.

    Raises
    ------
    InputsError
        It cannot be read, or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True) if path.suffix == ".pt" else _arrays(path)
    except Exception as error:  # of whatever type, where a file is of another kind
        reason = str(error).splitlines()[0] if isinstance(error, OSError) else type(error).__name__
        raise InputsError(f"{called}: cannot be read ({reason}): expected a file {', '.join(_SUFFIXES)}") from error
    if not tensors_of(content):
        raise InputsError(f"{called}: expected tensors, found {type(content).__name__}")
    return content


def check_values(inputs: Any, called: str) -> None:
    """Check that inputs hold neither NaN nor infinity.

    Parameters
    ----------
    inputs
        Tensors in any structure of containers.
    called
        Where they were given, for messages.

    Raises
    ------
    InputsError
        They do.
    """
    for tensor in tensors_of(inputs):
        if tensor.is_floating_point() and not is_finite(tensor):
            raise InputsError(f"{called}: values of shape {tuple(tensor.shape)} hold NaN or infinity")


def _split(text: str) -> tuple[str | None, str]:
    named = _NAMED.fullmatch(text)
    return (named["name"], named["value"]) if named else (None, text)


def _value(text: str, generator: torch.Generator) -> Any:
    shape = _SHAPE.fullmatch(text)
    if shape:
        return _random(shape, generator)
    path = Path(text)
    if path.suffix not in _SUFFIXES:
        raise InputsError(
            f"--input: expected a shape such as 1x3x224x224 or 1x128:int64, or a file {', '.join(_SUFFIXES)}, found "
            f"{quoted(text)}"
        )
    if not path.is_file():
        raise InputsError(f"--input: there is no file {quoted(text)}")
    return read_tensors(path, f"--input {shown(text)}")


def _random(shape: re.Match[str], generator: torch.Generator) -> Tensor:
    sizes = tuple(map(int, shape["sizes"].split("x")))
    dtype = torch.float32 if shape["dtype"] is None else dtype_of(shape["dtype"], f"--input {shape[0]}")
    if not all(sizes):
        raise InputsError(f"--input {shape[0]}: expected sizes from 1 on")
    below = shape["below"]
    if below is not None and (dtype.is_floating_point or int(below) < 1):
        raise InputsError(f"--input {shape[0]}: expected a type of whole numbers, such as int64, and a bound from 1 on")
    try:
        if dtype.is_floating_point:
            values = torch.randn(sizes, generator=generator).to(dtype)
        else:
            values = torch.randint(0, int(below or 2), sizes, generator=generator).to(dtype)
        is_finite(values)  # which torch cannot say of types that it only stores
    except (RuntimeError, TypeError, OverflowError) as error:  # too large for the memory, or for torch
        reason = shown(str(error).splitlines()[0])
        raise InputsError(f"--input {shape[0]}: cannot be made: {reason}: give other sizes or a file") from error
    return values


def _arrays(path: Path) -> Any:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return torch.from_numpy(loaded)
    with loaded:
        tensors = {name: torch.from_numpy(loaded[name]) for name in loaded.files}
    # What numpy.savez calls those that it was given without names.
    if list(tensors) == [f"arr_{number}" for number in range(len(tensors))]:
        return tuple(tensors.values()) if len(tensors) > 1 else tensors["arr_0"]
    return tensors
