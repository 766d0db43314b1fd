"""Groups of options: a verb takes dataclasses, and the command line shows their fields, each as an option."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Returned = TypeVar("Returned")


def flattened(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """A function that takes the fields of the dataclasses that the given one takes, each as a keyword.

    Typer reads options off a signature, and so would have every verb repeat those that it shares with others.

    Parameters
    ----------
    function
        Each of its parameters is annotated with a dataclass of options; no name of a field occurs twice.
    """
    groups = groups_of(function)
    hints = {field: hint for group in groups.values() for field, hint in _hints(group).items()}
    parameters = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=hints[field.name]
        )
        for group in groups.values()
        for field in dataclasses.fields(group)
    ]

    @functools.wraps(function)
    def call(**values: Any) -> Returned:
        arguments = {
            name: group(**{field.name: values[field.name] for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        return function(**arguments)

    del call.__wrapped__  # whose signature is another
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = hints
    return call


def groups_of(function: Callable[..., object]) -> Mapping[str, Any]:
    """The dataclasses of options that a verb takes, by the name of the parameter."""
    return {name: hint for name, hint in _hints(function).items() if name != "return"}


def _hints(annotated: Any) -> dict[str, Any]:
    return typing.get_type_hints(annotated, include_extras=True)


def _default(field: dataclasses.Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
