"""The model: from a function that makes it, or a pickled module, with weights of a file."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, ModelError, quoted, shown
from .named_function import is_named, named_function
from .options import ModelOptions
from .weights_file import load_weights


def built(options: ModelOptions) -> nn.Module:
    """The model that options describe, in eval mode, with its weights.

    Parameters
    ----------
    options
        Where it comes from.

    Raises
    ------
    ConfigError
        The factory does not exist, or an option is wrong.
    ModelError
        The factory fails, or returns no module; the pickle is damaged.
    CheckpointError, CheckpointAccessError
        The weights cannot be read, or are not the model's.
    """
    model = _made(options) if is_named(options.model) else _unpickled(options)
    if not isinstance(model, nn.Module):
        found = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ModelError(
            f"{shown(options.model)}: expected a torch.nn.Module, found {found}: name a function that returns the model"
        )
    if options.weights is None and (options.weights_key is not None or not options.strict):
        given = "--no-strict" if options.weights_key is None else "--weights-key"
        raise ConfigError(f"{given} is of a file of weights: give --weights too")
    if options.weights is not None:
        load_weights(model, options.weights, key=options.weights_key, strict=options.strict)
    return model.eval()


def _made(options: ModelOptions) -> Any:
    factory = named_function(options.model, "MODEL")
    if isinstance(factory, nn.Module):
        raise ConfigError(
            f"MODEL: expected a function that makes the model, found {shown(options.model)}, which is a model: name a "
            "function that returns it"
        )
    keywords = _keywords(options.factory_args)
    try:
        _check_arguments(factory, keywords)
        return factory(**keywords)
    except (Exception, SystemExit) as error:  # of whatever type: it is the user's code that runs
        raise ModelError(f"{shown(options.model)} fails: {type(error).__name__}: {error}") from error


def _check_arguments(factory: Callable[..., object], keywords: Mapping[str, object]) -> None:
    """Check that a function takes these keywords, and needs no others.

    Raises
    ------
    TypeError
        It does not.
    """
    try:
        signature = inspect.signature(factory)
    except ValueError:  # as of some that are written in C
        return
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise TypeError(f"{error}: it takes {signature}: give --factory-args") from None


def _keywords(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        keywords = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--factory-args: expected a JSON object, found {quoted(text)}: {error}") from error
    if not isinstance(keywords, dict):
        raise ConfigError(f'--factory-args: expected a JSON object, such as {{"depth": 50}}, found {quoted(text)}')
    return keywords


def _unpickled(options: ModelOptions) -> Any:
    path = Path(options.model)
    if options.factory_args is not None:
        raise ConfigError("--factory-args: a pickled module has no factory: leave it out")
    if path.suffix == ".py":
        raise ConfigError(f"MODEL: name the function that makes the model: {shown(path)}:function")
    if not path.is_file():
        raise ConfigError(
            f"MODEL: expected package.module:factory, path/file.py:factory or the file of a pickled module, found "
            f"{quoted(options.model)}, which is {'a folder' if path.is_dir() else 'no file'}"
        )
    if not options.trust:
        raise ConfigError(
            f"MODEL: {shown(path)} is a pickled module, which runs code of the file when it is loaded: give --trust if "
            "you trust where it comes from, or a factory and --weights"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # of whatever type: unpickling runs code of the file
        raise ModelError(f"{shown(path)}: cannot be loaded: {type(error).__name__}: {error}") from error
