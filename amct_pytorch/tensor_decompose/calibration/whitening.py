"""A square root of the second moment of a layer's inputs, shrunk as far as the data are too few to be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# What the second moment is shrunk by at least: it bounds the condition, so that the root can be inverted.
_LEAST_SHRINKAGE = 1e-4
# Power iterations for an eigenvalue that is only reported.
_POWERS = 5


@dataclass(frozen=True)
class Root:
    """A square root of a second moment S that was shrunk: rootᵀ·root = (1 − γ)·S + γ·mean variance·I.

    Attributes
    ----------
    root
        (d, d), upper triangular, regular.
    shrinkage
        γ, from 0 to 1. At 1 the data say nothing.
    variance
        The mean variance. Where it is 0 the root is that of the identity.
    """

    root: Tensor
    shrinkage: float
    variance: float

    @property
    def condition(self) -> float:
        """Of the shrunk moment: about its largest eigenvalue by its smallest."""
        root = self.root
        if not 0 < self.variance < math.inf:
            return math.inf
        largest = _largest_eigenvalue(lambda vector: root.T @ (root @ vector), len(root))
        of_inverse = _largest_eigenvalue(lambda vector: torch.cholesky_solve(vector, root, upper=True), len(root))
        return largest * of_inverse


def shrunk_root(total: Tensor, halves: Sequence[tuple[float, Tensor]], least: float = 0.0) -> Root:
    """A regular square root of the second moment, shrunk towards the identity as far as its halves disagree.

    O. Ledoit, M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004, where the
    sampling variance is estimated from the two halves, since neighbouring patches are no independent samples.
    The split of root·A is never worse for the unshrunk moment than the split of A itself, whatever γ < 1: a sum
    of that error and of A's own is least, and the split of A has the least error of A.

    Parameters
    ----------
    total
        S, (d, d).
    halves
        Weight and second moment (d, d) of each half.
    least
        What to shrink by at least, from 0 to 1: the share of the energy of the inputs that is to be noise.
    """
    size = len(total)
    variance = float(total.diagonal().mean())
    if variance <= 0 or not math.isfinite(variance):
        return Root(torch.eye(size, dtype=total.dtype, device="cpu"), 1.0, variance)
    (weight, one), (other_weight, other) = halves
    apart = total.clone()
    apart.diagonal().sub_(variance)
    distance = float(apart.square_().sum())
    del apart
    disagreement = float((one - other).square().sum()) * weight * other_weight / (weight + other_weight) ** 2
    judged = min(weight, other_weight) > 0
    shrinkage = disagreement / distance if judged and distance > 0 else 1.0
    shrinkage = min(max(shrinkage, least, _LEAST_SHRINKAGE), 1.0)
    while True:
        shrunk = (1 - shrinkage) * total
        shrunk.diagonal().add_(shrinkage * variance)
        lower, failed = torch.linalg.cholesky_ex(shrunk)
        if not failed or shrinkage == 1:
            break
        shrinkage = min(1.0, 10 * shrinkage)  # rounding has left it an eigenvalue below zero
    return Root(lower.mT.contiguous(), shrinkage, variance)


def _largest_eigenvalue(times: Callable[[Tensor], Tensor], size: int) -> float:
    """Of a symmetric matrix that is given by its products, to a few percent, by power iteration."""
    vector = torch.linspace(1, 2, size, dtype=torch.float64, device="cpu")[:, None]
    length = 1.0
    for _ in range(_POWERS):
        vector = times(vector)
        length = float(torch.linalg.vector_norm(vector))
        vector = vector / length
    return length
