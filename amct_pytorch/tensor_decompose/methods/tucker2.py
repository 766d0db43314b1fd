"""Tucker-2: a pointwise layer to fewer channels, the kernel between these, and a pointwise layer to all channels.

Y.-D. Kim, E. Park, S. Yoo, T. Choi, L. Yang, D. Shin, "Compression of deep convolutional neural networks for fast and
low power mobile applications", ICLR 2016. The factors begin as those of the truncated higher-order SVD, and are
improved by alternating least squares, the higher-order orthogonal iteration (L. De Lathauwer, B. De Moor,
J. Vandewalle, "On the best rank-1 and rank-(R1, …, RN) approximation of higher-order tensors", 2000).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..._run.tensors import safe_scale
from ..model.spec import LayerSpec
from ..ranks.spectrum import Spectrum
from .base import Method
from .geometry import along, why_grouped, why_narrow
from .low_rank import Matrix, evened, unfolding_of


class Tucker2(Method):
    """A k×k convolution as 1×1 → k×k → 1×1, between fewer channels on both sides."""

    name = "tucker2"
    axes = (1, 2, 3)
    stage_names = ("first", "core", "last")

    def impossible(self, layer: LayerSpec) -> str | None:
        """It takes a convolution with a kernel above 1 on an axis, and no groups."""
        if layer.patch_size == layer.in_channels:
            found = f"a {layer.kind} has no kernel" if layer.axes == 0 else "its kernel is a single place"
            return f'{found} to put between fewer channels: use method="channel"'
        return why_grouped(layer)

    def unadvised(self, layer: LayerSpec) -> str | None:
        """Layers too narrow to pay for two more are kept."""
        return why_narrow(layer)

    def full_ranks(self, layer: LayerSpec) -> tuple[int, ...]:
        """Of the two unfoldings along the channels, (in, out·kernel) and (out, in·kernel): their smaller sides."""
        places = math.prod(layer.kernel_size)
        return (
            min(layer.in_channels, layer.out_channels * places),
            min(layer.out_channels, layer.in_channels * places),
        )

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        """The kernel, stride, padding and dilation are the core's."""
        in_rank, out_rank = ranks
        pointwise = along(layer, ())
        return (
            dataclasses.replace(pointwise, out_channels=in_rank, bias=False),
            dataclasses.replace(layer, in_channels=in_rank, out_channels=out_rank, bias=False),
            dataclasses.replace(pointwise, in_channels=out_rank),
        )

    def spectrum(self, weight: Tensor, layer: LayerSpec, metric: Tensor | None = None) -> Spectrum:
        """Of both unfoldings, with the energy of the core, from which the error at any pair of ranks follows."""
        tensor = _in_first(weight, metric)
        unfoldings = []
        for mode, rank in enumerate(self.full_ranks(layer)):
            part = unfolding_of(_unfolded(tensor, mode), min(layer.in_channels, layer.out_channels))
            # A mode of more channels than there are numbers in each has singular values of zero beyond those.
            columns = weight.numel() // rank
            unfoldings.append(dataclasses.replace(part, rows=rank, columns=columns, values=part.values[:rank]))
        spectrum = Spectrum(tuple(unfoldings), exact=weight.dtype == torch.float64).keeping(self.full_ranks(layer))
        core = _projected(tensor / safe_scale(tensor), _bases(spectrum, self.full_ranks(layer)))
        energies = core.flatten(2).double().square().sum(2).numpy()
        return dataclasses.replace(spectrum, energies=energies)

    def split(
        self,
        weight: Tensor,
        layer: LayerSpec,
        ranks: Sequence[int],
        metric: Tensor | None = None,
        spectrum: Spectrum | None = None,
    ) -> tuple[Tensor, ...]:
        """Orthonormal factors of metric·kernel, with the metric undone in the first."""
        if spectrum is None or not spectrum.has_bases(ranks):
            spectrum = self.spectrum(weight, layer, metric)
        tensor = _in_first(weight, metric)
        scale = safe_scale(tensor)
        core, (first, last) = _iterated(tensor / scale, _bases(spectrum, ranks))
        if metric is not None:
            first = torch.linalg.solve_triangular(metric, first, upper=True)
        weights = evened((first.T, scale * core.transpose(0, 1), last))
        return tuple(
            part.reshape(stage.weight_shape) for part, stage in zip(weights, self.stages(layer, ranks), strict=True)
        )


def _in_first(weight: Tensor, metric: Tensor | None) -> Tensor:
    """The kernel, or metric·kernel, as (in, out, *kernel)."""
    tensor = weight.transpose(0, 1)
    return tensor if metric is None else torch.tensordot(metric, tensor, dims=1)


def _unfolded(tensor: Tensor, mode: int) -> Matrix:
    return lambda: tensor.movedim(mode, 0).flatten(1)


def _bases(spectrum: Spectrum, ranks: Sequence[int]) -> list[Tensor]:
    """The leading singular vectors of both unfoldings, (in, R_in) and (out, R_out), the strongest first."""
    bases = []
    for part, rank in zip(spectrum.unfoldings, ranks, strict=True):
        assert part.basis is not None, "the caller keeps as many singular vectors as it wants terms"
        bases.append(part.basis[:, part.basis.shape[1] - rank :].flip(1))
    return bases


def _projected(tensor: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """The core (R_in, R_out, *kernel) of (in, out, *kernel)."""
    first, last = bases
    return torch.einsum("io...,ir,os->rs...", tensor, first, last)


def _iterated(tensor: Tensor, bases: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Core and factors after alternating least squares from these factors."""
    core = _projected(tensor, bases)
    # Of a tensor of zeros nothing can be improved, and its relative error is no number.
    if not core.any() or core.shape == tensor.shape:
        return core, bases
    # More channels on one side of the core than it has numbers for each on the other serve nothing: they stay zero.
    places = core[0, 0].numel()
    used = min(len(core), core.shape[1] * places), min(core.shape[1], len(core) * places)
    # In a thread of its own, as tensorly's choice of a backend belongs to a thread: its backend_context, when it ends,
    # makes what this thread had the default of all. What else is set for this thread alone, a default device or
    # autocast, does not hold there either.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        start = [basis[:, :rank] for basis, rank in zip(bases, used, strict=True)]
        found, factors = executor.submit(_iterated_by_tensorly, tensor, start, torch.get_num_threads()).result()
    core = torch.zeros_like(core)
    core[: used[0], : used[1]] = found
    return core, [torch.cat([new, basis[:, new.shape[1] :]], 1) for new, basis in zip(factors, bases, strict=True)]


def _iterated_by_tensorly(tensor: Tensor, start: list[Tensor], threads: int) -> tuple[Tensor, list[Tensor]]:
    import tensorly  # slow to import, and needed only here
    from tensorly.decomposition import partial_tucker

    torch.set_num_threads(threads)
    tensorly.set_backend("pytorch", local_threadsafe=True)
    with torch.no_grad():
        core = _projected(tensor, start)
        # Its modes must be in ascending order, and the last factor comes first, as for a weight as it is.
        (core, (last, first)), _ = partial_tucker(
            tensor.transpose(0, 1), [*core.shape[1::-1]], modes=[0, 1], init=(core.transpose(0, 1), start[::-1])
        )
    return core.transpose(0, 1), [first, last]
