"""A pretrained network that reads handwritten digits, and its data: something to try the library on."""

from .data import accuracy, load_digits_tensors
from .network import WEIGHTS_PATH, DigitsNet, load_pretrained

__all__ = ["WEIGHTS_PATH", "DigitsNet", "accuracy", "load_digits_tensors", "load_pretrained"]
