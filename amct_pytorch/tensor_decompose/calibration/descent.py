"""A stage of a chain moved towards least squares on the responses of the layer, with the others as they are.

The response is linear in each stage while the others stay, so conjugate gradients on the moments of the patches
serve a stage at any place in the chain. Stopping early is what keeps it from overfitting, as the moments come in two
halves, from different images, and each half judges what the other finds. Float64 numbers on the CPU only.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..model.compose import composed_weight, ungrouped
from ..model.spec import LayerSpec
from .least_squares import Moments
from .stage_kernels import places_at, places_of, prefix_offsets, seen_by_prefix
from .whitening import Root

# Steps of conjugate gradients: few, which regularises.
_STEPS = 4
# Added to a diagonal, relative to its mean, so that a matrix that is singular but for rounding can be inverted.
_JITTER = 1e-6


def improve_stage(
    weights: Sequence[Tensor],
    stages: Sequence[LayerSpec],
    index: int,
    layer: LayerSpec,
    root: Root,
    total: Moments,
    halves: Sequence[Moments],
) -> Tensor | None:
    """A weight for one stage, of less error on these data; None where no gain carries over between the halves.

    Parameters
    ----------
    weights
        Those of all stages, float64.
    stages
        Their geometry.
    index
        Which of them is to change; not the last.
    layer
        Geometry of the layer that the chain stands in for.
    root
        Of the second moment of what the first stage sees. The better the data know a direction, the further a
        stage goes along it.
    total, halves
        Moments of all the data, and of its halves.
    """
    parts = [total, *halves]
    own_root = root.root
    if index:
        # What the stages before give is all that this one sees, so the rest of the chain is fitted to its moments.
        prefix, offsets = composed_weight(weights[:index], stages[:index]), prefix_offsets(layer, stages[:index])
        parts = [part.through(prefix, offsets) for part in parts]
        layer = _behind(layer, stages[:index])
        own_root = _root_of(parts[0].second, prefix_offsets(layer, stages[index : index + 1]), root.shrinkage)
    problem = _Problem.of(weights[index:], stages[index:], layer, own_root)
    on_all, *on_halves = (_Squares.of(problem, part) for part in parts)
    if on_all.begin <= total.rounding or min(half.weight for half in halves) == 0:
        return None
    gain = -sum(
        half.weight * judging.change(fitted_on.descend())
        for fitted_on, judging, half in zip(on_halves, reversed(on_halves), reversed(halves), strict=True)
    )
    return problem.weight(problem.begin.flatten(1) + on_all.descend()) if gain > 0 else None


def _behind(layer: LayerSpec, before: Sequence[LayerSpec]) -> LayerSpec:
    """The layer that the stages behind these stand in for: it sees their responses, where the others have a kernel."""
    kernel = [max(sizes) for sizes in zip(*(stage.kernel_size for stage in before), strict=True)]
    places = tuple(size - own + 1 for size, own in zip(layer.kernel_size, kernel, strict=True))
    return replace(layer, in_channels=before[-1].out_channels, kernel_size=places, groups=1)


def _root_of(second: Tensor, offsets: Tensor, shrinkage: float) -> Tensor:
    """A square root (d, d), upper triangular, of the second moment of what a stage sees, shrunk by so much."""
    moment = seen_by_prefix(second, offsets).clone()
    variance = float(moment.diagonal().mean())
    moment *= 1 - shrinkage
    moment.diagonal().add_(max(shrinkage, _JITTER) * variance + torch.finfo(moment.dtype).tiny)
    root: Tensor = torch.linalg.cholesky(moment).mT
    return root


@dataclass(frozen=True)
class _Problem:
    """Least squares for the first stage of a chain, whose weight is here a matrix (R, in·kernel) without groups.

    Attributes
    ----------
    begin
        Its weight as it is (R, in, *kernel), without groups.
    groups
        Of the stage.
    tail
        The matrices (J, out, R) of the stages behind it, at each place of their kernel.
    products
        (J, R, J·R), those of placeᵀ·place for each pair of places of the tail.
    places
        Where the stage sees a patch of the layer; see `places_at`.
    root
        (d, d), upper triangular: of the second moment of what the stage sees.
    inner_root
        (R, R), lower triangular: of the sum over the tail's places of placeᵀ·place.
    """

    begin: Tensor
    groups: int
    tail: Tensor
    products: Tensor
    places: Sequence[slice | Tensor]
    root: Tensor
    inner_root: Tensor

    @classmethod
    def of(cls, weights: Sequence[Tensor], stages: Sequence[LayerSpec], layer: LayerSpec, root: Tensor) -> _Problem:
        tail = torch.stack(places_of(composed_weight(weights[1:], stages[1:])))
        side_by_side = tail.movedim(0, 1).flatten(1)
        inner = torch.einsum("jor,jos->rs", tail, tail)
        inner.diagonal().add_(_JITTER * float(inner.diagonal().mean()) + torch.finfo(inner.dtype).tiny)
        return cls(
            begin=ungrouped(weights[0], stages[0].groups),
            groups=stages[0].groups,
            tail=tail,
            products=tail.mT @ side_by_side,
            places=places_at(prefix_offsets(layer, stages[:1])),
            root=root,
            inner_root=torch.linalg.cholesky(inner),
        )

    def weight(self, rows: Tensor) -> Tensor:
        """The weight (R, in / groups, *kernel) as the stage has it."""
        parts = rows.reshape(self.begin.shape).chunk(self.groups)
        size = self.begin.shape[1] // self.groups
        return torch.cat([part[:, group * size : (group + 1) * size] for group, part in enumerate(parts)])

    def asked(self, cross: Tensor) -> Tensor:
        """What responses whose moment with the patches is (out, D) ask of the weight: half the negative gradient."""
        return self._within_groups(
            _total(matrix.T @ cross[:, place] for matrix, place in zip(self.tail, self.places, strict=True))
        )

    def answered(self, rows: Tensor, second: Tensor) -> Tensor:
        """The same of the responses of the chain with this weight, to patches of this second moment (D, D)."""
        images = torch.cat([rows @ second[place] for place in self.places])  # (J·R, D)
        return self._within_groups(
            _total(product @ images[:, place] for product, place in zip(self.products, self.places, strict=True))
        )

    def conditioned(self, gradient: Tensor) -> Tensor:
        """The gradient preconditioned as if the places of the tail saw independent inputs."""
        by_output = torch.cholesky_solve(gradient, self.inner_root)
        return self._within_groups(torch.cholesky_solve(by_output.T, self.root, upper=True).T)

    def _within_groups(self, rows: Tensor) -> Tensor:
        """The same with zeros where no group connects output and input."""
        if self.groups == 1:
            return rows
        return ungrouped(self.weight(rows), self.groups).flatten(1)


@dataclass(frozen=True)
class _Squares:
    """The error of the response on some moments, by the change of the weight.

    Attributes
    ----------
    problem
        What the weight is of.
    second
        (D, D), second moment of the patches.
    rest
        What the weight as it is leaves of the response asks of it.
    begin
        The error with that weight.
    """

    problem: _Problem
    second: Tensor
    rest: Tensor
    begin: float

    @classmethod
    def of(cls, problem: _Problem, moments: Moments) -> _Squares:
        rows = problem.begin.flatten(1)
        asked = problem.asked(moments.cross)
        rest = asked - problem.answered(rows, moments.second)
        begin = max(0.0, moments.energy - float((rows * (asked + rest)).sum()))
        return cls(problem, moments.second, rest, begin)

    def change(self, step: Tensor) -> float:
        """By how much a change of the weight changes the error."""
        return float((step * (self.problem.answered(step, self.second) - 2 * self.rest)).sum())

    def descend(self) -> Tensor:
        """The change of the weight after a few steps of conjugate gradients."""
        rest, moved = self.rest, torch.zeros_like(self.rest)
        direction = self.problem.conditioned(rest)
        power = float((rest * direction).sum())
        step = direction
        for _ in range(_STEPS):
            image = self.problem.answered(step, self.second)
            curvature = float((step * image).sum())
            if not (power > 0 and curvature > 0):
                break
            moved = moved + power / curvature * step
            rest = rest - power / curvature * image
            direction = self.problem.conditioned(rest)
            power, before = float((rest * direction).sum()), power
            step = direction + power / before * step
        return moved


def _total(parts: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)
