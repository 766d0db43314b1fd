"""A layer as two, one after the other: the kernel of some axes in the first, that of the others in the last.

The weight (out, in, *kernel) is matricised with (in, the axes of the first stage) on one side and (out, the axes of
the last one) on the other, and cut to its leading singular terms.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..model.spec import Axes, LayerSpec
from ..ranks.spectrum import Spectrum
from .base import Method
from .geometry import along
from .low_rank import Matrix, balanced, low_rank, unfolding_of


class TwoStages(Method):
    """A split in two without groups, which differs from others by what goes to the first stage."""

    @abc.abstractmethod
    def axes_of_first(self, layer: LayerSpec) -> Axes:
        """The spatial axes, in ascending order, on which the first stage has the kernel; the last has the others."""

    def full_ranks(self, layer: LayerSpec) -> tuple[int, ...]:
        """The smaller side of the matricised kernel."""
        return (min(self._sides(layer)),)

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        """Each has the original's kernel, stride, padding and dilation on its own axes; it is pointwise on others."""
        (rank,) = ranks
        first = replace(along(layer, self.axes_of_first(layer)), out_channels=rank, bias=False)
        last = replace(along(layer, self._axes_of_last(layer)), in_channels=rank)
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
        first_side = (1, *(2 + axis for axis in self.axes_of_first(layer)))
        last_side = (0, *(2 + axis for axis in self._axes_of_last(layer)))
        first_is_smaller = self._first_is_smaller(layer)
        if metric is not None:
            exact = weight.permute(*first_side, *last_side).reshape(len(metric), -1)
            seen = metric @ exact if first_is_smaller else (metric @ exact).T.contiguous()
            return lambda: seen
        smaller, larger = (first_side, last_side) if first_is_smaller else (last_side, first_side)
        (rows,) = self.full_ranks(layer)
        return lambda: weight.permute(*smaller, *larger).reshape(rows, -1)

    def _axes_of_last(self, layer: LayerSpec) -> Axes:
        first = self.axes_of_first(layer)
        return tuple(axis for axis in range(layer.axes) if axis not in first)

    def _sides(self, layer: LayerSpec) -> tuple[int, int]:
        """The sides of the matricised kernel: what the first stage sees, and what the last one answers."""
        first, last = (
            math.prod(layer.kernel_size[axis] for axis in axes)
            for axes in (self.axes_of_first(layer), self._axes_of_last(layer))
        )
        return layer.in_channels * first, layer.out_channels * last

    def _first_is_smaller(self, layer: LayerSpec) -> bool:
        seen, answered = self._sides(layer)
        return seen <= answered
