"""Decomposition methods: each is one file here and one entry in the registry, or a class of the user's own."""

from __future__ import annotations

from ...errors import ConfigError, ConfigTypeError, quoted, similar
from .base import Method
from .separable import Separable

__all__ = ["Method", "get_method", "method_names", "register_method"]

_METHODS: dict[str, Method] = {method.name: method for method in (Separable(),)}


def method_names() -> list[str]:
    """Names of the methods that there are."""
    return list(_METHODS)


def get_method(name: str) -> Method:
    """The method of this name.

    Raises
    ------
    ConfigError
        There is none.
    """
    if name not in _METHODS:
        close = similar(name, _METHODS)
        hint = f"did you mean {quoted(close[0])}?" if close else f"there is {', '.join(map(repr, _METHODS))}"
        raise ConfigError(f"method: no decomposition method is named {quoted(name)}; {hint}")
    return _METHODS[name]


def register_method(method: Method) -> None:
    """Let a method of your own be named in settings and files, until the process ends.

    Parameters
    ----------
    method
        An object of a subclass of `Method`. It must be registered wherever a file that names it is read.

    Raises
    ------
    ConfigTypeError, ConfigError
        It is no such object, or another method has its name.
    """
    if not isinstance(method, Method):
        raise ConfigTypeError(f"expected an object of a subclass of Method, found {quoted(method)}")
    known = _METHODS.get(method.name)
    if known is not None and type(known) is not type(method):
        raise ConfigError(
            f"method {quoted(method.name)} exists already, as {type(known).__qualname__}: choose another name"
        )
    _METHODS[method.name] = method
