"""What the splits have in common: parts of a layer's geometry."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..model.spec import Axes, LayerSpec

# Below it a stage is too small to pay for one more layer: AMCT leaves splits below rank 16 alone, for the same reason.
_FEW_CHANNELS = 16


def along(layer: LayerSpec, axes: Collection[int]) -> LayerSpec:
    """The layer with its geometry on some of its axes, and pointwise on the others."""

    def on_axes(numbers: Axes, elsewhere: int) -> Axes:
        return tuple(number if axis in axes else elsewhere for axis, number in enumerate(numbers))

    return replace(
        layer,
        kernel_size=on_axes(layer.kernel_size, 1),
        stride=on_axes(layer.stride, 1),
        padding=layer.padding if isinstance(layer.padding, str) else on_axes(layer.padding, 0),
        dilation=on_axes(layer.dilation, 1),
    )


def why_grouped(layer: LayerSpec) -> str | None:
    """Why a split that mixes all channels is not possible, in words; None where it is."""
    return f"it has {layer.groups} groups" if layer.groups > 1 else None


def why_narrow(layer: LayerSpec) -> str | None:
    """Why a split between fewer channels does not pay, in words; None where it may."""
    channels = min(layer.in_channels, layer.out_channels)
    if channels < _FEW_CHANNELS:
        return f"its {channels} channels at the narrower end are below {_FEW_CHANNELS}"
    return None
