"""Decomposition methods for tests that differ in form from the separable split: other stages, several ranks, groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from amct_pytorch.tensor_decompose.methods import Method
from amct_pytorch.tensor_decompose.methods.linalg import eigen_of_gram
from amct_pytorch.tensor_decompose.methods.low_rank import low_rank, unfolding_of
from amct_pytorch.tensor_decompose.model.spec import LayerSpec
from amct_pytorch.tensor_decompose.ranks.spectrum import Spectrum, Unfolding


def pointwise(layer: LayerSpec, in_channels: int, out_channels: int, *, bias: bool = False) -> LayerSpec:
    """A layer with these channels and no kernel on any axis."""
    ones, none = (1,) * layer.axes, (0,) * layer.axes
    return replace(
        layer,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=ones,
        stride=ones,
        padding=layer.padding if isinstance(layer.padding, str) else none,
        dilation=ones,
        groups=1,
        bias=bias,
    )


def narrow(layer: LayerSpec) -> int:
    """Channels at the narrower end."""
    return min(layer.in_channels, layer.out_channels)


class ChannelSplit(Method):
    """A layer with the same kernel and fewer output channels, then a pointwise one: of any number of axes."""

    name = "test-channel"
    axes = (0, 1, 2, 3)

    def impossible(self, layer: LayerSpec) -> str | None:
        return f"it has {layer.groups} groups" if layer.groups > 1 else None

    def full_ranks(self, layer: LayerSpec) -> tuple[int, ...]:
        return (min(layer.patch_size, layer.out_channels),)

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        (rank,) = ranks
        return (
            replace(layer, out_channels=rank, bias=False),
            pointwise(layer, rank, layer.out_channels, bias=layer.bias),
        )

    def spectrum(self, weight: Tensor, layer: LayerSpec, metric: Tensor | None = None) -> Spectrum:
        unfolding = unfolding_of(lambda: _smaller_first(_seen(weight, metric)), narrow(layer))
        return Spectrum((unfolding,), exact=weight.dtype == torch.float64)

    def split(
        self,
        weight: Tensor,
        layer: LayerSpec,
        ranks: Sequence[int],
        metric: Tensor | None = None,
        spectrum: Spectrum | None = None,
    ) -> tuple[Tensor, ...]:
        if spectrum is None or not spectrum.has_bases(ranks):
            spectrum = self.spectrum(weight, layer, metric)
        seen = _seen(weight, metric)
        left, right = low_rank(lambda: _smaller_first(seen), spectrum.unfoldings[0], ranks[0])
        first, last = (left, right) if len(seen) <= seen.shape[1] else (right.T, left.T)  # (patch, R), (R, out)
        if metric is not None:
            first = torch.linalg.solve_triangular(metric, first, upper=True)
        stages = self.stages(layer, ranks)
        return first.T.reshape(stages[0].weight_shape), last.T.reshape(stages[1].weight_shape)


class TwoRankSplit(Method):
    """Tucker-2 by a truncated higher-order SVD: pointwise, the kernel between fewer channels, pointwise."""

    name = "test-two-ranks"
    axes = (1, 2, 3)
    stage_names = ("reduce", "core", "expand")

    def impossible(self, layer: LayerSpec) -> str | None:
        if layer.groups > 1:
            return f"it has {layer.groups} groups"
        return None if math.prod(layer.kernel_size) > 1 else "its kernel is a single place"

    def full_ranks(self, layer: LayerSpec) -> tuple[int, ...]:
        places = math.prod(layer.kernel_size)
        return (
            min(layer.in_channels, layer.out_channels * places),
            min(layer.out_channels, layer.in_channels * places),
        )

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        in_rank, out_rank = ranks
        return (
            pointwise(layer, layer.in_channels, in_rank),
            replace(layer, in_channels=in_rank, out_channels=out_rank, bias=False),
            pointwise(layer, out_rank, layer.out_channels, bias=layer.bias),
        )

    def spectrum(self, weight: Tensor, layer: LayerSpec, metric: Tensor | None = None) -> Spectrum:
        tensor = _in_first(weight, metric)
        modes = (tensor.flatten(1), tensor.movedim(1, 0).flatten(1))
        parts = [unfolding_of(lambda mode=mode: mode, narrow(layer)) for mode in modes]  # type: ignore[misc]
        # A mode of more channels than there are other numbers has singular values of zero beyond those.
        kept = (
            replace(part, rows=full, columns=math.prod(layer.weight_shape) // full, values=part.values[:full])
            for part, full in zip(parts, self.full_ranks(layer), strict=True)
        )
        return Spectrum(tuple(kept), exact=weight.dtype == torch.float64)

    def split(
        self,
        weight: Tensor,
        layer: LayerSpec,
        ranks: Sequence[int],
        metric: Tensor | None = None,
        spectrum: Spectrum | None = None,
    ) -> tuple[Tensor, ...]:
        if spectrum is None or not spectrum.has_bases(ranks):
            spectrum = self.spectrum(weight, layer, metric)
        bases = [part.basis for part in spectrum.unfoldings]
        in_basis, out_basis = (
            basis[:, basis.shape[1] - rank :].flip(1)
            for basis, rank in zip(bases, ranks, strict=True)
            if basis is not None
        )
        core = torch.einsum("io...,ir,os->sr...", _in_first(weight, metric), in_basis, out_basis)
        first = in_basis if metric is None else torch.linalg.solve_triangular(metric, in_basis, upper=True)
        size = float(core.abs().max()) ** (1 / 3) or 1.0
        stages = self.stages(layer, ranks)
        return (
            (first.T * size).reshape(stages[0].weight_shape),
            (core / size**2).contiguous(),
            (out_basis * size).reshape(stages[2].weight_shape),
        )


class GroupedSplit(Method):
    """A few kernels for each input channel, convolved channel by channel, then a pointwise layer over all of them.

    J. Guo, Y. Li, W. Lin, Y. Chen, J. Li, "Network decoupling: from regular to depthwise separable convolutions",
    BMVC 2018. In a metric it takes the input channels for independent.
    """

    name = "test-grouped"
    axes = (1, 2, 3)

    def impossible(self, layer: LayerSpec) -> str | None:
        if layer.groups > 1 or layer.axes == 0:
            return "it is a Linear layer or has groups"
        return None if math.prod(layer.kernel_size) > 1 else "its kernel is a single place"

    def full_ranks(self, layer: LayerSpec) -> tuple[int, ...]:
        return (min(math.prod(layer.kernel_size), layer.out_channels),)

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        between = layer.in_channels * ranks[0]
        return (
            replace(layer, out_channels=between, groups=layer.in_channels, bias=False),
            pointwise(layer, between, layer.out_channels, bias=layer.bias),
        )

    def spectrum(self, weight: Tensor, layer: LayerSpec, metric: Tensor | None = None) -> Spectrum:
        found = [eigen_of_gram(_smaller_first(matrix)) for matrix in self._by_channel(weight, metric)]
        values = sum(eigen.values for eigen in found[1:])
        (rows,) = self.full_ranks(layer)
        unfolding = Unfolding(
            rows=rows,
            columns=math.prod(layer.weight_shape) // rows,
            channels=narrow(layer),
            values=found[0].values + values,
            uncertainty=sum(eigen.uncertainty for eigen in found),
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
        kernels, mixers = [], []
        for channel, matrix in enumerate(self._by_channel(weight, metric)):
            left, singulars, right = torch.linalg.svd(matrix, full_matrices=False)  # (kernel, out)
            strength = singulars[: ranks[0]].sqrt()
            kernel = left[:, : ranks[0]] * strength
            if metric is not None:
                kernel = torch.linalg.solve_triangular(self._own(metric, channel, len(kernel)), kernel, upper=True)
            kernels.append(kernel.T)
            mixers.append(strength[:, None] * right[: ranks[0]])
        stages = self.stages(layer, ranks)
        return (
            torch.cat(kernels).reshape(stages[0].weight_shape),
            torch.cat(mixers).T.reshape(stages[1].weight_shape),
        )

    def ranks_of(self, layer: LayerSpec, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return (shapes[0][0] // layer.in_channels,)

    def _by_channel(self, weight: Tensor, metric: Tensor | None) -> list[Tensor]:
        matrices = [weight[:, channel].flatten(1).T for channel in range(weight.shape[1])]
        if metric is None:
            return matrices
        return [self._own(metric, channel, len(matrix)) @ matrix for channel, matrix in enumerate(matrices)]

    def _own(self, metric: Tensor, channel: int, size: int) -> Tensor:
        """A root of the second moment of what one channel sees."""
        columns = metric[:, channel * size : (channel + 1) * size]
        root: Tensor = torch.linalg.cholesky(columns.T @ columns).mT
        return root


def _seen(weight: Tensor, metric: Tensor | None) -> Tensor:
    """(patch, out)."""
    matrix = weight.flatten(1).T
    return matrix if metric is None else metric @ matrix


def _in_first(weight: Tensor, metric: Tensor | None) -> Tensor:
    """(in, out, *kernel)."""
    tensor = weight.movedim(1, 0)
    return tensor if metric is None else torch.einsum("ji,i...->j...", metric, tensor)


def _smaller_first(matrix: Tensor) -> Tensor:
    return matrix if len(matrix) <= matrix.shape[1] else matrix.T.contiguous()
