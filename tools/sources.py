"""The model and its data: from functions that the user names, or the shipped digits."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, cast

from torch import nn
from torch.utils.data import Dataset, TensorDataset

from amct_pytorch.demo import load_digits_tensors, load_pretrained
from amct_pytorch.errors import ConfigError, InputsError, ModelError

Datasets = tuple[Dataset[Any], Dataset[Any]]
"""Training data and test data."""


def named_function(name: str) -> Any:
    """The function that ``module:function`` names.

    Raises
    ------
    ConfigError
        The module or the function does not exist, or the latter is not callable.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ConfigError(f"expected module:function, found {name!r}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name and not module_name.startswith(f"{error.name}."):
            raise  # the user's module imports a missing one
        raise ConfigError(f"{name!r}: there is no module {error.name!r} in {folder} or installed") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = "no such name" if function is None else f"{type(function).__name__}"
        raise ConfigError(f"{name!r}: expected a function in {module.__file__}, found {found}")
    return function


def pretrained(name: str | None) -> nn.Module:
    """The user's model, or the digits network."""
    model = named_function(name)() if name else load_pretrained()
    if not isinstance(model, nn.Module):
        raise ModelError(f"--model {name}: expected it to return a torch.nn.Module, found {type(model).__name__}")
    return model


def datasets(name: str | None) -> Datasets:
    """The user's data sets, or the digits."""
    found = named_function(name)() if name else _digits_datasets()
    if not (isinstance(found, tuple | list) and len(found) == 2 and all(map(_is_dataset, found))):
        raise InputsError(
            f"--data {name}: expected it to return two data sets with a length and items (input, label), for training "
            f"and for the test, neither of them empty, found {found!r}"
        )
    return cast(Datasets, tuple(found))


def _is_dataset(found: object) -> bool:
    return hasattr(found, "__getitem__") and hasattr(found, "__len__") and len(found) > 0


def _digits_datasets() -> Datasets:
    images, labels, test_images, test_labels = load_digits_tensors()
    return TensorDataset(images, labels), TensorDataset(test_images, test_labels)
