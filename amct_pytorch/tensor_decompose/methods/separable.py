"""The spatially separable split: a kh×kw convolution becomes a kh×1 and a 1×kw one, or 1×kw and kh×1.

M. Jaderberg, A. Vedaldi, A. Zisserman, "Speeding up convolutional neural networks with low rank expansions",
BMVC 2014. Layers, modes and ranks of a Conv2d are the reference's (Huawei AMCT), so its files can be read and written.

A Conv3d becomes one over time and one over space: D. Tran et al., "A closer look at spatiotemporal convolutions for
action recognition", CVPR 2018, who train such layers from scratch.
"""

from __future__ import annotations

import math

from ..model.spec import Axes, LayerSpec, times
from .geometry import why_grouped
from .two_stages import TwoStages


class Separable(TwoStages):
    """A kh×kw convolution as two, one along each axis; one over kt×kh×kw as kt×1×1 and 1×kh×kw."""

    name = "separable"
    axes = (2, 3)

    def impossible(self, layer: LayerSpec) -> str | None:
        """It takes a kernel above 1 on two axes, of a Conv3d on two at least, and no groups."""
        if layer.axes not in (2, 3):
            return f"a {layer.kind} has not the two axes that a separable split takes"
        grouped = why_grouped(layer)
        if grouped is not None:
            return grouped
        if sum(size > 1 for size in layer.kernel_size) < 2:
            return f"its kernel {times(layer.kernel_size)} is below 2 on an axis, so there is nothing to separate"
        return None

    def axes_by(self, rule: str) -> tuple[int, ...]:
        """AMCT separates Conv2d alone."""
        return (2,) if rule == "amct" else self.axes

    def unadvised(self, layer: LayerSpec) -> str | None:
        """The reference's rule, in words."""
        if layer.axes != 2:
            return f"it is a {layer.kind}, and AMCT separates Conv2d alone"
        channels = min(layer.in_channels, layer.out_channels)
        side = min(layer.kernel_size)
        if max(layer.dilation) > 1:
            return f"its dilation {times(layer.dilation)} is above 1"
        if max(layer.stride) > 2:
            return f"its stride {times(layer.stride)} is above 2"
        if side < 3:
            return f"its kernel {times(layer.kernel_size)} is below 3 on an axis"
        if side < 7 and channels < 64:
            return f"its {channels} channels at the narrower end are below 64"
        if side * channels < 16:
            return f"its full rank {side * channels} is below 16"
        return None

    def mode(self, layer: LayerSpec) -> str:
        """SCFK, SCSK, FCFK or FCSK, as the reference names them; of a Conv3d which axes come first: "time-space"."""
        if layer.axes == 2:
            height, width = layer.kernel_size
            return ("SC" if layer.out_channels >= layer.in_channels else "FC") + ("FK" if height <= width else "SK")
        parts = _parts(layer)
        names = ("time", "space") if parts[0] == (0,) else ("height", "width")
        return "-".join(names if self.axes_of_first(layer) == parts[0] else reversed(names))

    def axes_of_first(self, layer: LayerSpec) -> Axes:
        """The smaller part of the kernel goes with the fewer channels."""
        one, other = _parts(layer)
        smaller, larger = (one, other) if _places(layer, one) <= _places(layer, other) else (other, one)
        return smaller if layer.out_channels >= layer.in_channels else larger


def _parts(layer: LayerSpec) -> tuple[Axes, Axes]:
    """The axes that are separated: height and width, or time and space; height and width too of a 1×kh×kw kernel."""
    end = 1 if layer.axes == 2 or layer.kernel_size[0] > 1 else 2
    return tuple(range(end)), tuple(range(end, layer.axes))


def _places(layer: LayerSpec, axes: Axes) -> int:
    return math.prod(layer.kernel_size[axis] for axis in axes)
