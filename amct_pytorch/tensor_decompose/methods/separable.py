"""The spatially separable split: a kh×kw convolution becomes a kh×1 and a 1×kw one, or 1×kw and kh×1.

M. Jaderberg, A. Vedaldi, A. Zisserman, "Speeding up convolutional neural networks with low rank expansions",
BMVC 2014. Layers, modes and ranks are the reference's (Huawei AMCT), so its files can be read and written.

The kernel W (out, in, kh, kw) is matricised with (in, the first convolution's axis) on one side and (out, the
last convolution's axis) on the other, and cut to its leading singular terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..model.spec import Axes, LayerSpec, times
from ..ranks.spectrum import Spectrum
from .base import Method
from .low_rank import Matrix, balanced, low_rank, unfolding_of

# The axes of a weight (out, in, kh, kw).
_OUT, _IN, _HEIGHT, _WIDTH = range(4)


class Separable(Method):
    """A kh×kw convolution as two, one along each axis."""

    name = "separable"

    def impossible(self, layer: LayerSpec) -> str | None:
        """It takes two axes with a kernel of more than one, and no groups."""
        if layer.axes != 2:
            return f"a {layer.kind} has not the two axes that a separable split takes"
        if layer.groups > 1:
            return f"it has {layer.groups} groups"
        if min(layer.kernel_size) < 2:
            return f"its kernel {times(layer.kernel_size)} is below 2 on an axis, so there is nothing to separate"
        return None

    def unadvised(self, layer: LayerSpec) -> str | None:
        """The reference's rule, in words."""
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
        """SCFK, SCSK, FCFK or FCSK, as the reference names them."""
        height, width = layer.kernel_size
        return ("SC" if layer.out_channels >= layer.in_channels else "FC") + ("FK" if height <= width else "SK")

    def full_ranks(self, layer: LayerSpec) -> tuple[int, ...]:
        """min(in, out)·min(kh, kw): the smaller side of the matricised kernel."""
        return (min(layer.in_channels, layer.out_channels) * min(layer.kernel_size),)

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        """Each has the original's kernel, stride, padding and dilation on its own axis; the other is pointwise."""
        (rank,) = ranks
        first_axis = self._first_axis(layer)
        first = replace(_along(layer, first_axis), out_channels=rank, bias=False)
        last = replace(_along(layer, 1 - first_axis), in_channels=rank)
        return first, last

    def spectrum(self, weight: Tensor, layer: LayerSpec, metric: Tensor | None = None) -> Spectrum:
        """That of the matricised kernel, or of metric·kernel."""
        unfolding = unfolding_of(
            self._matricised(weight, layer, metric), channels=min(layer.in_channels, layer.out_channels)
        )
        return Spectrum((unfolding,), exact=weight.dtype == torch.float64)

    def split(
        self,
        weight: Tensor,
        layer: LayerSpec,
        ranks: Sequence[int],
        metric: Tensor | None = None,
        spectrum: Spectrum | None = None,
    ) -> tuple[Tensor, ...]:
        """The leading singular terms of the matricised kernel.

        With a metric it is metric·kernel that is cut, and the metric undone in the first factor.
        """
        if spectrum is None or not spectrum.has_bases(ranks):
            spectrum = self.spectrum(weight, layer, metric)
        left, right = low_rank(self._matricised(weight, layer, metric), spectrum.unfoldings[0], ranks[0])
        first, last = (left.T, right) if self._first_is_smaller(layer) else (right, left.T)
        if metric is not None:
            first, last = balanced(torch.linalg.solve_triangular(metric, first.T, upper=True).T, last)
        first_stage, last_stage = self.stages(layer, ranks)
        last = last.reshape(ranks[0], layer.out_channels, -1).transpose(0, 1)
        return first.reshape(first_stage.weight_shape), last.reshape(last_stage.weight_shape)

    def _matricised(self, weight: Tensor, layer: LayerSpec, metric: Tensor | None) -> Matrix:
        """The matrix (L, M) with the smaller side first, made when it is asked for."""
        first_axis = self._first_axis(layer)
        first_side, last_side = (_IN, _HEIGHT + first_axis), (_OUT, _WIDTH - first_axis)
        first_is_smaller = self._first_is_smaller(layer)
        if metric is not None:
            exact = weight.permute(*first_side, *last_side).reshape(len(metric), -1)
            seen = metric @ exact if first_is_smaller else (metric @ exact).T.contiguous()
            return lambda: seen
        smaller, larger = (first_side, last_side) if first_is_smaller else (last_side, first_side)
        rows = weight.shape[smaller[0]] * weight.shape[smaller[1]]
        return lambda: weight.permute(*smaller, *larger).reshape(rows, -1)

    def _first_is_smaller(self, layer: LayerSpec) -> bool:
        """Whether the side of the matricised kernel that goes to the first convolution is the smaller one."""
        return layer.in_channels <= layer.out_channels

    def _first_axis(self, layer: LayerSpec) -> int:
        """Axis of the first convolution: 0 for height, 1 for width. The shorter one goes with the fewer channels."""
        return 0 if self.mode(layer) in ("SCFK", "FCSK") else 1


def _along(layer: LayerSpec, axis: int) -> LayerSpec:
    """The convolution with its geometry on one axis (0 height, 1 width), and pointwise on the other."""

    def on_axis(pair: Axes, elsewhere: int) -> Axes:
        return (pair[0], elsewhere) if axis == 0 else (elsewhere, pair[1])

    return replace(
        layer,
        kernel_size=on_axis(layer.kernel_size, 1),
        stride=on_axis(layer.stride, 1),
        padding=layer.padding if isinstance(layer.padding, str) else on_axis(layer.padding, 0),
        dilation=on_axis(layer.dilation, 1),
    )
