"""The split between channels: the kernel to or from fewer channels, and a pointwise layer before or behind it.

X. Zhang, J. Zou, K. He, J. Sun, "Accelerating very deep convolutional networks for classification and detection",
TPAMI 2016, for the kernel first; C. Tai, T. Xiao, Y. Zhang, X. Wang, W. E, "Convolutional neural networks with
low-rank regularization", ICLR 2016, compare such forms. Of a Linear layer it is the truncated singular value
decomposition.
"""

from __future__ import annotations

import math

from ..model.spec import Axes, LayerSpec
from .geometry import why_grouped, why_narrow
from .two_stages import TwoStages


class Channel(TwoStages):
    """A k×k layer as k×k → 1×1 or as 1×1 → k×k, whichever costs less; a pointwise or Linear layer as two of them."""

    name = "channel"
    axes = (0, 1, 2, 3)

    def impossible(self, layer: LayerSpec) -> str | None:
        """It takes every layer without groups."""
        return why_grouped(layer)

    def unadvised(self, layer: LayerSpec) -> str | None:
        """Layers too narrow to pay for one more are kept."""
        return why_narrow(layer)

    def mode(self, layer: LayerSpec) -> str:
        """``"channel"``, and which stage has the kernel where there is one."""
        if layer.patch_size == layer.in_channels:
            return self.name
        return f"{self.name}, kernel {'first' if self.axes_of_first(layer) else 'last'}"

    def axes_of_first(self, layer: LayerSpec) -> Axes:
        """All or none: the form that takes fewer multiply-accumulates at the same rank, or else fewer parameters.

        A stride is with the kernel, so a pointwise stage before it works at all positions, and one behind it at few.
        """
        kernel, strides = math.prod(layer.kernel_size), math.prod(layer.stride)
        in_channels, out_channels = layer.in_channels, layer.out_channels
        parameters_first, parameters_last = in_channels * kernel + out_channels, in_channels + out_channels * kernel
        macs_first, macs_last = parameters_first, in_channels * strides + out_channels * kernel
        first_costs_less = (macs_first, parameters_first) <= (macs_last, parameters_last)
        return tuple(range(layer.axes)) if first_costs_less else ()
