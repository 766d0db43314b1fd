"""Convert dataclasses to plain data for a JSON file, and back with every field checked."""

from __future__ import annotations

import collections.abc
import dataclasses
import math
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch

from ..errors import quoted, shown

Record = TypeVar("Record")


def to_plain(record: Any, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """A dataclass as a dict of numbers, strings, lists and dicts of them.

    Parameters
    ----------
    record
        A dataclass whose fields are numbers, strings, None, dataclasses, and tuples of these.
    leave_out
        Names of its fields to omit.
    """
    fields = [field.name for field in dataclasses.fields(record) if field.name not in leave_out]
    return {name: _plain(getattr(record, name)) for name in fields}


def from_plain(
    kind: type[Record],
    value: object,
    where: str,
    error: type[ValueError],
    given: Mapping[str, Any] | None = None,
    *,
    null_is_nan: bool = False,
) -> Record:
    """The dataclass that `to_plain` converted.

    Parameters
    ----------
    kind
        The class. Its annotations define the type of each field.
    value
        The content of a file, which may be anything.
    where
        Its place in the file, for messages.
    error
        The class of error to raise if the value does not match the annotations.
    given
        Values of the fields that were omitted, by name.
    null_is_nan
        Whether None in place of a number is NaN, as where it was written as JSON, which has none.
    """
    given = given or {}
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.name not in given]  # type: ignore[arg-type]
    if not isinstance(value, dict):
        raise error(f"{where}: expected an object, found {quoted(value)}")
    if set(value) != set(names):
        odd = sorted(set(names) ^ set(map(str, value)))
        raise error(f"{where}: expected the keys {', '.join(names)}; {shown(', '.join(odd))} is missing or unknown")

    def checked(hint: Any, value: Any, where: str) -> Any:
        return _checked(hint, value, where, error, null_is_nan=null_is_nan)

    fields = {name: checked(hints[name], value[name], f"{where}, {name}") for name in names}
    return kind(**fields, **given)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_plain(value)
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def _checked(hint: Any, value: Any, where: str, error: type[ValueError], *, null_is_nan: bool) -> Any:
    """A value, checked by a type hint, with lists as tuples and dicts as dataclasses."""

    def checked(hint: Any, value: Any, where: str) -> Any:
        return _checked(hint, value, where, error, null_is_nan=null_is_nan)

    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        choices = [choice for choice in arguments if choice is not type(None)]
        return checked(next((choice for choice in choices if _may_be(choice, value)), choices[0]), value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise error(f"{where}: expected one of {', '.join(map(str, arguments))}, found {quoted(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise error(f"{where}: expected a list, found {quoted(value)}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise error(f"{where}: expected {len(kinds)} values, found {len(value)}")
        return tuple(checked(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, dict):
            raise error(f"{where}: expected an object, found {quoted(value)}")
        return {key: checked(arguments[1], item, f"{where}, {shown(key)}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type, hint), value, where, error, null_is_nan=null_is_nan)
    if hint is float and value is None and null_is_nan:
        return math.nan
    if hint is torch.dtype:
        dtype = getattr(torch, value, None) if isinstance(value, str) else None
        if not isinstance(dtype, torch.dtype):
            raise error(f"{where}: expected the name of a type of torch, found {quoted(value)}")
        return dtype
    right = isinstance(value, int | float) if hint is float else isinstance(value, hint)
    if not right or (isinstance(value, bool) and hint is not bool):
        raise error(f"{where}: expected {_WORDS.get(hint, hint)}, found {quoted(value)}")
    return value


def _may_be(hint: Any, value: object) -> bool:
    """Whether a value may be meant for this type among those of a union, by its own type alone."""
    kind = typing.get_origin(hint) or hint
    if kind is tuple:
        return isinstance(value, list)
    return isinstance(value, dict) if dataclasses.is_dataclass(kind) else isinstance(value, kind)


# JSON types in messages.
_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
