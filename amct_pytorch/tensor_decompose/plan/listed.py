"""Which layers of a model a plan speaks of: those of the kinds that the methods in use are for, and what rules name."""

from __future__ import annotations

from ..config import DecompositionConfig
from ..methods.registry import methods_named
from ..model.layers import Layer


def is_listed(layer: Layer, config: DecompositionConfig) -> bool:
    """Whether a plan speaks of a layer: the method that it would be split by is for its kind, or a rule names it."""
    if any(layer.axes in method.axes for method in methods_named(config.method_for(layer.names))):
        return True
    return any(name in config.layers for name in layer.names)


def axes_in_use(config: DecompositionConfig) -> set[int]:
    """Numbers of spatial axes of the layers that the methods of a config are for."""
    return {axes for name in config.methods for method in methods_named(name) for axes in method.axes}
