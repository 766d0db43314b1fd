"""Which layers of a model a plan speaks of: those of the kinds that the methods in use are for, and what rules name."""

from __future__ import annotations

from ..config import DecompositionConfig
from ..methods.registry import methods_named
from ..model.layers import Layer


def is_listed(layer: Layer, config: DecompositionConfig) -> bool:
    """Whether a plan speaks of a layer: the method that it would be split by is for its kind, or a rule names it."""
    return layer.axes in _axes(*config.method_for(layer.names)) or any(name in config.layers for name in layer.names)


def axes_in_use(config: DecompositionConfig) -> set[int]:
    """Numbers of spatial axes of the layers that the methods of a config are for."""
    return {axes for method, rule in config.methods for axes in _axes(method, rule)}


def _axes(method: str, rule: str) -> set[int]:
    return {axes for one in methods_named(method) for axes in one.axes_by(rule)}
