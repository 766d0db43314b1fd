"""The spatially separable split: a kh×kw convolution becomes a kh×1 and a 1×kw one, or 1×kw and kh×1.

M. Jaderberg, A. Vedaldi, A. Zisserman, "Speeding up convolutional neural networks with low rank expansions",
BMVC 2014. Layers, modes and ranks are the reference's (Huawei AMCT), so its files can be read and written.

The kernel W (out, in, kh, kw) is matricised with (in, the first convolution's axis) on one side and (out, the
last convolution's axis) on the other, and cut to its leading singular terms.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..config import DecompositionConfig, Matricised
from ..model.spec import ConvSpec
from .base import Factors
from .low_rank import balanced, low_rank

# The axes of a weight (out, in, kh, kw).
_OUT, _IN, _HEIGHT, _WIDTH = range(4)


class Separable:
    """A kh×kw convolution as two, one along each axis."""

    name = "separable"

    def why_not(self, conv: ConvSpec) -> str | None:
        """The reference's rule, in words."""
        channels = min(conv.in_channels, conv.out_channels)
        side = min(conv.kernel_size)
        height, width = conv.kernel_size
        if conv.groups > 1:
            return f"it has {conv.groups} groups"
        if max(conv.dilation) > 1:
            return f"its dilation {conv.dilation[0]}×{conv.dilation[1]} is above 1"
        if max(conv.stride) > 2:
            return f"its stride {conv.stride[0]}×{conv.stride[1]} is above 2"
        if side < 3:
            return f"its kernel {height}×{width} is below 3 on an axis"
        if side < 7 and channels < 64:
            return f"its {channels} channels at the narrower end are below 64"
        if side * channels < 16:
            return f"its full rank {side * channels} is below 16"
        return None

    def mode(self, conv: ConvSpec) -> str:
        """SCFK, SCSK, FCFK or FCSK, as the reference names them."""
        height, width = conv.kernel_size
        return ("SC" if conv.out_channels >= conv.in_channels else "FC") + ("FK" if height <= width else "SK")

    def full_rank(self, conv: ConvSpec) -> int:
        """min(in, out)·min(kh, kw): the smaller side of the matricised kernel."""
        return min(conv.in_channels, conv.out_channels) * min(conv.kernel_size)

    def stages(self, conv: ConvSpec, rank: int) -> tuple[ConvSpec, ConvSpec]:
        """Each has the original's kernel, stride, padding and dilation on its own axis; the other is pointwise."""
        first_axis = self._first_axis(conv)
        first = replace(_along(conv, first_axis), out_channels=rank, bias=False)
        last = replace(_along(conv, 1 - first_axis), in_channels=rank)
        return first, last

    def factorise(
        self, weight: torch.Tensor, conv: ConvSpec, settings: DecompositionConfig, root: torch.Tensor | None = None
    ) -> Factors:
        """The leading singular terms of the matricised kernel, at the rank that the settings' policy chooses.

        With a root it is root·kernel that is split, and the root undone in the first factor.
        """
        first_axis = self._first_axis(conv)
        first_side, last_side = (_IN, _HEIGHT + first_axis), (_OUT, _WIDTH - first_axis)
        first_is_smaller = conv.in_channels <= conv.out_channels
        smaller, larger = (first_side, last_side) if first_is_smaller else (last_side, first_side)
        shape = weight.shape
        kernel = Matricised(
            rows=shape[smaller[0]] * shape[smaller[1]],
            columns=shape[larger[0]] * shape[larger[1]],
            channels=min(conv.in_channels, conv.out_channels),
            multiple=settings.rank_multiple,
        )

        exact = seen = None
        if root is not None:
            exact = weight.permute(*first_side, *last_side).reshape(len(root), -1)
            seen = root @ exact if first_is_smaller else (root @ exact).T.contiguous()

        def matrix() -> torch.Tensor:
            return weight.permute(*smaller, *larger).reshape(kernel.rows, kernel.columns) if seen is None else seen

        terms = low_rank(matrix, kernel, settings.rank)
        first, last = (terms.left.T, terms.right) if first_is_smaller else (terms.right, terms.left.T)
        error = terms.error
        if root is not None and exact is not None:
            first, last = balanced(torch.linalg.solve_triangular(root, first.T, upper=True).T, last)
            length = float(torch.linalg.vector_norm(exact))
            error = float(torch.linalg.vector_norm(exact - first.T @ last)) / length if length else 0.0
        first_conv, last_conv = self.stages(conv, terms.rank)
        last = last.reshape(terms.rank, conv.out_channels, -1).transpose(0, 1)
        return Factors(
            weights=(first.reshape(first_conv.weight_shape), last.reshape(last_conv.weight_shape)),
            rank=terms.rank,
            why=terms.why,
            error=error,
        )

    def _first_axis(self, conv: ConvSpec) -> int:
        """Axis of the first convolution: 0 for height, 1 for width. The shorter one goes with the fewer channels."""
        return 0 if self.mode(conv) in ("SCFK", "FCSK") else 1


def _along(conv: ConvSpec, axis: int) -> ConvSpec:
    """The convolution with its geometry on one axis (0 height, 1 width), and pointwise on the other."""

    def on_axis(pair: tuple[int, int], elsewhere: int) -> tuple[int, int]:
        return (pair[0], elsewhere) if axis == 0 else (elsewhere, pair[1])

    return replace(
        conv,
        kernel_size=on_axis(conv.kernel_size, 1),
        stride=on_axis(conv.stride, 1),
        padding=conv.padding if isinstance(conv.padding, str) else on_axis(conv.padding, 0),
        dilation=on_axis(conv.dilation, 1),
    )
