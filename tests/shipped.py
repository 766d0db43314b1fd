"""What stands beside the library in the repository: the digits network, and those of the benchmark."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent


def digits_net() -> Any:
    """The shipped network with its weights, in eval mode."""
    return _module("examples/digits/net.py").load_pretrained()


def digits_data() -> Any:
    """Images and labels of the training set and of the test set."""
    return _module("examples/digits/data.py").load_digits_tensors()


def networks() -> ModuleType:
    """The module with ResNet-50 and its like."""
    return _module("tools/networks.py")


def _module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"shipped_{Path(path).stem}", _ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
