"""The decomposition methods that there are: ours, those that are installed, and those that are registered by hand."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from ...errors import ConfigError, ConfigTypeError, listed, quoted, similar
from .base import Method
from .channel import Channel
from .separable import Separable
from .tucker2 import Tucker2

AUTO = "auto"
"""What settings call the choice of a method for each layer; no method has this name."""

GROUP = "amct_pytorch.methods"
"""The entry-point group of methods. An entry point is named as its method, and leads to its class."""

OURS: tuple[Method, ...] = (Separable(), Channel(), Tucker2())
"""Ours, in the order in which `AUTO` compares them."""

_METHODS: dict[str, Method] = {method.name: method for method in OURS}


def method_names() -> list[str]:
    """Names of the methods that there are; those that are installed are not loaded for that."""
    return list(dict.fromkeys([*_METHODS, *(point.name for point in entry_points(group=GROUP))]))


def get_method(name: str) -> Method:
    """The method of this name. An installed one is loaded at its first use.

    Parameters
    ----------
    name
        Of one of ours, which come first, of one registered by `register_method`, or of an entry point.

    Raises
    ------
    ConfigError
        There is none, several distributions have one, or it cannot be loaded.
    """
    if name not in _METHODS:
        points = {point.value: point for point in entry_points(group=GROUP) if point.name == name}
        if not points:
            names = method_names()
            close = similar(name, [*names, *([AUTO] if name != AUTO else [])])
            hint = f"did you mean {quoted(close[0])}?" if close else f"there is {listed(names)}"
            raise ConfigError(f"method: no decomposition method is named {quoted(name)}; {hint}")
        if len(points) > 1:
            raise ConfigError(
                f"method: {quoted(name)} is installed {len(points)} times, as "
                f"{' and '.join(map(_origin, points.values()))}: uninstall all but one"
            )
        (point,) = points.values()
        _METHODS.setdefault(name, _loaded(point))
    return _METHODS[name]


def methods_named(name: str) -> tuple[Method, ...]:
    """The method of this name, or for `AUTO` ours, in their order.

    Others are not among these, so that what is installed on a machine does not change what is chosen there.
    """
    return OURS if name == AUTO else (get_method(name),)


def register_method(method: Method) -> None:
    """Let a method of your own be named in settings and files, until the process ends.

    Parameters
    ----------
    method
        An object of a subclass of `Method`. It must be registered wherever a file that names it is read; a package
        that is installed there can name it in the entry-point group ``amct_pytorch.methods`` instead.

    Raises
    ------
    ConfigTypeError, ConfigError
        It is no such object, or another method has its name.
    """
    if not isinstance(method, Method):
        raise ConfigTypeError(f"expected an object of a subclass of Method, found {quoted(method)}")
    if method.name == AUTO:
        raise ConfigError(f"method {AUTO!r} stands for the choice among methods: choose another name")
    known = _METHODS.get(method.name)
    if known is not None and type(known) is not type(method):
        raise ConfigError(
            f"method {quoted(method.name)} exists already, as {type(known).__qualname__}: choose another name"
        )
    _METHODS[method.name] = method


def _loaded(point: EntryPoint) -> Method:
    try:
        kind = point.load()
        if not (isinstance(kind, type) and issubclass(kind, Method)):
            raise TypeError(
                f"expected a subclass of amct_pytorch.tensor_decompose.methods.Method, found {quoted(kind)}"
            )
        method = kind()
        if method.name != point.name:
            raise ValueError(
                f"the entry point is called {quoted(point.name)}, but the class calls itself {quoted(method.name)}"
            )
    except Exception as error:  # a plugin may fail in any way
        raise ConfigError(
            f"method: {quoted(point.name)} cannot be loaded from {_origin(point)}: {type(error).__name__}: {error}; "
            "fix or uninstall it"
        ) from error
    return method


def _origin(point: EntryPoint) -> str:
    package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"{quoted(point.value)}{package}"
