"""A stage of a chain moved towards least squares on the responses of the layer, with the others as they are.

The response is linear in each stage while the others stay, so conjugate gradients on the moments of the patches
serve a stage at any place in the chain. Stopping early is what keeps it from overfitting, as the moments come in two
halves, from different images, and each half judges what the other finds. Float64 numbers on the CPU only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..model.compose import composed_weight, ungrouped
from ..model.spec import LayerSpec
from .least_squares import Moments
from .stage_kernels import composed, onto_places, places_of, prefix_offsets, seen_by_prefix, seen_through
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
    problem = _Problem.of(weights, stages, index, layer, root, total.second)
    begin = problem.begin.flatten(1)
    error = total.error(problem.kernel(begin))
    if error <= total.rounding or min(half.weight for half in halves) == 0:
        return None
    gain = sum(
        judging.weight * (judging.error(problem.kernel(begin)) - judging.error(problem.kernel(moved)))
        for fitted_on, judging in zip(halves, reversed(halves), strict=True)
        for moved in [problem.descend(fitted_on)]
    )
    return problem.weight(problem.descend(total)) if gain > 0 else None


@dataclass(frozen=True)
class _Problem:
    """Least squares for one stage, whose weight is here a matrix (R', R·kernel) without groups.

    Attributes
    ----------
    begin
        Its weight as it is (R', R, *kernel), without groups.
    groups
        Of the stage.
    before
        Kernel (R, in, *kernel) of the stages before it, and where they lie in a patch of all up to this stage;
        None for the first stage.
    tail
        Kernel (out, R', *kernel) of the stages behind it.
    offsets
        (d, J) of the stages up to this one, in a patch of the layer; see `prefix_offsets`.
    root
        (R·kernel, R·kernel), upper triangular: of the second moment of what the stage sees.
    inner_root
        (R', R'), lower triangular: of the sum over the tail's places of placeᵀ·place.
    """

    begin: Tensor
    groups: int
    before: tuple[Tensor, Tensor] | None
    tail: Tensor
    offsets: Tensor
    root: Tensor
    inner_root: Tensor

    @classmethod
    def of(
        cls,
        weights: Sequence[Tensor],
        stages: Sequence[LayerSpec],
        index: int,
        layer: LayerSpec,
        root: Root,
        second: Tensor,
    ) -> _Problem:
        tail = composed_weight(weights[index + 1 :], stages[index + 1 :])
        offsets = prefix_offsets(layer, stages[: index + 1])
        inner = sum((place.T @ place for place in places_of(tail)), tail.new_zeros(tail.shape[1], tail.shape[1]))
        inner.diagonal().add_(_JITTER * float(inner.diagonal().mean()) + torch.finfo(inner.dtype).tiny)
        before, own_root = None, root.root
        if index:
            prefix = composed_weight(weights[:index], stages[:index])
            kernel = [max(sizes) for sizes in zip(*(stage.kernel_size for stage in stages[: index + 1]), strict=True)]
            before = prefix, prefix_offsets(replace(layer, kernel_size=tuple(kernel)), stages[:index])
            moment = seen_through(prefix, seen_by_prefix(second, offsets), before[1])
            variance = float(moment.diagonal().mean())
            moment *= 1 - root.shrinkage
            moment.diagonal().add_(max(root.shrinkage, _JITTER) * variance + torch.finfo(moment.dtype).tiny)
            own_root = torch.linalg.cholesky(moment).mT
        return cls(
            begin=ungrouped(weights[index], stages[index].groups),
            groups=stages[index].groups,
            before=before,
            tail=tail,
            offsets=offsets,
            root=own_root,
            inner_root=torch.linalg.cholesky(inner),
        )

    def kernel(self, rows: Tensor) -> Tensor:
        """The kernel (out, D) of the chain with this weight (R', R·kernel)."""
        if self.before is not None:
            prefix, offsets = self.before
            rows = composed(prefix, rows.reshape(self.begin.shape), offsets)
        return composed(rows, self.tail, self.offsets)

    def weight(self, rows: Tensor) -> Tensor:
        """The weight (R', R / groups, *kernel) as the stage has it."""
        parts = rows.reshape(self.begin.shape).chunk(self.groups)
        size = self.begin.shape[1] // self.groups
        return torch.cat([part[:, group * size : (group + 1) * size] for group, part in enumerate(parts)])

    def descend(self, moments: Moments) -> Tensor:
        """A few steps of conjugate gradients, preconditioned as if the places of the tail saw independent inputs."""
        rows = self.begin.flatten(1)
        rest = self._gradient(moments.cross - self.kernel(rows) @ moments.second)
        direction = self._conditioned(rest)
        power = float((rest * direction).sum())
        step = direction
        for _ in range(_STEPS):
            image = self._gradient(self.kernel(step) @ moments.second)
            curvature = float((step * image).sum())
            if not (power > 0 and curvature > 0):
                break
            rows = rows + power / curvature * step
            rest = rest - power / curvature * image
            direction = self._conditioned(rest)
            power, before = float((rest * direction).sum()), power
            step = direction + power / before * step
        return rows

    def _gradient(self, of_kernel: Tensor) -> Tensor:
        """The transpose of `kernel`."""
        places = zip(places_of(self.tail), self.offsets.unbind(1), strict=True)
        rows = of_kernel.new_zeros(self.tail.shape[1], len(self.offsets))
        for place, offset in places:
            rows += place.T @ of_kernel[:, offset]
        return self._within_groups(rows if self.before is None else onto_places(self.before[0], rows, self.before[1]))

    def _conditioned(self, gradient: Tensor) -> Tensor:
        by_output = torch.cholesky_solve(gradient, self.inner_root)
        return self._within_groups(torch.cholesky_solve(by_output.T, self.root, upper=True).T)

    def _within_groups(self, rows: Tensor) -> Tensor:
        """The same with zeros where no group connects output and input."""
        if self.groups == 1:
            return rows
        return ungrouped(self.weight(rows), self.groups).flatten(1)
