"""Which methods may split a weight, by the settings for it and the layers that share it."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import DecompositionConfig
from ..model.spec import LayerSpec
from .base import Method
from .registry import methods_named


def eligible_methods(layers: Sequence[LayerSpec], settings: DecompositionConfig) -> tuple[Method, ...]:
    """The methods that the settings name and that may split all layers of one weight, in the order of the registry."""
    return tuple(method for method in methods_named(settings.method) if _why_not(method, layers, settings.rule) is None)


def why_kept(layers: Sequence[LayerSpec], settings: DecompositionConfig) -> str | None:
    """Why none of the methods that the settings name may split the layers of one weight, or None where one may.

    Raises
    ------
    ConfigError
        There is no method of the name.
    """
    methods = methods_named(settings.method)
    reasons = {method.name: _why_not(method, layers, settings.rule) for method in methods}
    if None in reasons.values():
        return None
    if len(methods) == 1:
        return reasons[settings.method]
    by_reason: dict[str | None, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{reason} ({', '.join(names)})" for reason, names in by_reason.items())


def _why_not(method: Method, layers: Sequence[LayerSpec], rule: str) -> str | None:
    for layer in layers:
        reason = method.why_not(layer) or (method.unadvised(layer) if rule == "amct" else None)
        if reason is not None:
            return reason
    # The factors of one form are not those of another.
    if len({method.mode(layer) for layer in layers}) > 1:
        return "its weight is also that of a layer with another stride, which is split in another form"
    return None
