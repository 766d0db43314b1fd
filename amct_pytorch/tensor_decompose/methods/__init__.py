"""Decomposition methods: each is one file here and one entry in `METHODS`."""

from __future__ import annotations

import difflib

from ...errors import ConfigError
from .base import Factors, Method
from .separable import Separable

__all__ = ["METHODS", "Factors", "Method", "get_method"]

METHODS: dict[str, Method] = {method.name: method for method in (Separable(),)}


def get_method(name: str) -> Method:
    """The method of this name.

    Raises
    ------
    ConfigError
        There is none.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(map(repr, METHODS))}"
        raise ConfigError(f"method: no decomposition method is named {name!r}; {hint}")
    return METHODS[name]
