"""Functions of the user's, named on the command line: `package.module:function` or `path/file.py:function`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError, quoted, shown, similar


def is_named(text: str) -> bool:
    """Whether a text names a function, and not a file or folder.

    Parameters
    ----------
    text
        An argument of the command line.
    """
    module, colon, name = text.rpartition(":")
    return bool(colon and module) and all(part.isidentifier() for part in name.split("."))


def named_function(text: str, option: str) -> Callable[..., Any]:
    """The function that a text names.

    Parameters
    ----------
    text
        ``package.module:function`` or ``path/file.py:function``; a module may lie in the current folder.
    option
        Where it was given, for messages.

    Raises
    ------
    ConfigError
        There is no such module, file or function, it is not callable, or importing it fails.
    """
    if not is_named(text):
        raise ConfigError(f"{option}: expected package.module:function or path/file.py:function, found {quoted(text)}")
    source, _, name = text.rpartition(":")
    module = _imported(source, option)
    try:
        function: Callable[..., Any] = operator.attrgetter(name)(module)
    except AttributeError as error:
        near = similar(name, [known for known, value in vars(module).items() if callable(value)])
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"{option}: {shown(source)} has no {quoted(name)}{hint}") from error
    if not callable(function):
        raise ConfigError(f"{option}: expected a function, found {text}, which is {type(function).__name__}")
    return function


def _imported(source: str, option: str) -> ModuleType:
    try:
        return _from_file(Path(source).resolve()) if source.endswith(".py") else _from_path(source)
    except (Exception, SystemExit) as error:  # of whatever type: it is the user's code that runs
        raise ConfigError(f"{option}: {shown(source)} cannot be imported: {type(error).__name__}: {error}") from error


def _from_path(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as for python -m
    return importlib.import_module(name)


@functools.cache
def _from_file(path: Path) -> ModuleType:
    """The module of a file; of one that is named twice, the same."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as for python file.py: neighbours can be imported
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    name = path.stem if loaded is None else f"{path.stem}_of_{path.parent.name}"  # it must hide no other module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where pickle and dataclasses look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
