"""Decomposition methods: each is one file here and one entry in the registry, or a class of somebody else's."""

from .base import Method
from .registry import get_method, method_names, register_method

__all__ = ["Method", "get_method", "method_names", "register_method"]
