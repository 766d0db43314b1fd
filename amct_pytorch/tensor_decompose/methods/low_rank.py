"""A matrix and a rank policy in, two balanced factors out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...errors import ConfigError
from ..config import Matricised, RankPolicy
from ..ranks.evbmf import Singulars
from .linalg import eigen_of_gram, project


@dataclass(frozen=True)
class LowRank:
    """A matrix (L, M) as left·right.

    Attributes
    ----------
    left, right
        (L, R) and (R, M), balanced: term r has the square root of its singular value on either side.
    why
        Where the rank comes from, in words.
    error
        ‖A − left·right‖ / ‖A‖ in the Frobenius norm.
    """

    left: torch.Tensor
    right: torch.Tensor
    why: str
    error: float

    @property
    def rank(self) -> int:
        """Number R of terms."""
        return self.left.shape[1]


def low_rank(matrix: Callable[[], torch.Tensor], kernel: Matricised, policy: RankPolicy) -> LowRank:
    """The best approximation of a matrix at the rank that the policy chooses.

    Computed in the precision of the matrix. In float32 the rank is also chosen from singular values
    disturbed by as much as rounding may have disturbed them: where the choice turns, or where rounding
    blurs the leading terms themselves, everything is computed once more in float64.

    Parameters
    ----------
    matrix
        Gives the matrix (L, M) with L <= M, finite, float32 or float64, on the CPU. It is asked anew where
        the matrix is needed again, so that none lies in memory beside an eigendecomposition.
    kernel
        What the policy is told of it.
    """
    first = matrix()
    scale, precision = _scale(first), first.dtype
    del first

    def scaled() -> torch.Tensor:
        values = matrix().to(precision)
        return values if scale == 1 else values / scale

    def choose(singulars: Singulars) -> tuple[int, str]:
        rank, why = policy.choose(kernel, singulars * scale)
        if not 1 <= rank <= kernel.rows:
            raise ConfigError(f"{policy!r} must choose a rank from 1 to {kernel.rows}, found {rank!r}")
        return rank, why

    eigen = eigen_of_gram(scaled())
    rank, why = choose(eigen.singulars)
    if precision == torch.float32 and (
        eigen.blurs(rank) or any(choose(disturbed)[0] != rank for disturbed in eigen.disturbed_singulars)
    ):
        del eigen
        precision = torch.float64
        eigen = eigen_of_gram(scaled())
        rank, why = choose(eigen.singulars)
    left, right, error = project(scaled(), eigen, rank)
    if scale != 1:
        left, right = left * math.sqrt(scale), right * math.sqrt(scale)
    return LowRank(left, right, why, error)


def balanced(first: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The two factors (R, m) and (R, n) of a product firstᵀ·last as its singular terms, as `low_rank` gives them.

    Of all factors with this product they lose least by rounding.
    """
    left, left_rest = torch.linalg.qr(first.T)
    right, right_rest = torch.linalg.qr(last.T)
    turn, singulars, back = torch.linalg.svd(left_rest @ right_rest.T)
    strength = singulars.sqrt()
    return (left @ turn * strength).T, strength[:, None] * (back @ right.T)


def _scale(matrix: torch.Tensor) -> float:
    """A power of four near the largest entry where squares of entries could under- or overflow, else 1."""
    least, most = torch.aminmax(matrix)
    largest = max(float(most), -float(least))
    if largest == 0 or 2.0**-30 < largest < 2.0**30:
        return 1.0
    return 4.0 ** (math.frexp(largest)[1] // 2)
