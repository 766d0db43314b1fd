"""The network, data and accuracy of examples/digits, for the tools."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "digits"))

from data import accuracy, load_digits_tensors  # found through the line above
from net import WEIGHTS_PATH, load_pretrained

__all__ = ["WEIGHTS_PATH", "accuracy", "load_digits_tensors", "load_pretrained"]
