"""The low-rank approximation of a matrix: its unfolding's spectrum first, then two balanced factors at a rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..._run.tensors import safe_scale
from ..ranks.spectrum import Unfolding
from .linalg import eigen_of_gram

Matrix = Callable[[], Tensor]
"""Gives a matrix (L, M) with L <= M, finite, float32 or float64, on the CPU.

A function, so that where it is needed twice it need not lie in memory beside an eigendecomposition.
"""


def unfolding_of(matrix: Matrix, channels: int) -> Unfolding:
    """Singular values and left singular vectors of a matrix, in its own precision.

    Parameters
    ----------
    matrix
        See `Matrix`.
    channels
        min(in_channels, out_channels) of the layer.
    """
    values = matrix()
    rows, columns = values.shape
    scale = safe_scale(values)
    del values
    eigen = eigen_of_gram(_scaled(matrix, scale))
    return Unfolding(rows, columns, channels, eigen.values, eigen.uncertainty, scale, eigen.vectors)


def low_rank(matrix: Matrix, unfolding: Unfolding, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation left·right of a matrix at a rank, balanced between the two.

    With U the leading left singular vectors it is U·(Uᵀ·A): a projection, so it is as exact as U is orthonormal.

    Parameters
    ----------
    matrix
        A, (L, M); see `Matrix`.
    unfolding
        That of the same matrix, with at least ``rank`` singular vectors.
    rank
        Number R of leading terms, 1 <= R <= L.

    Returns
    -------
    left : Tensor
        (L, R).
    right : Tensor
        (R, M). Its row r has the same norm as column r of left: the square root of the singular value.
    """
    vectors = unfolding.basis
    assert vectors is not None, "the caller keeps as many singular vectors as it wants terms"
    scale = unfolding.scale
    values = _scaled(matrix, scale)
    basis = vectors[:, vectors.shape[1] - rank :].flip(1)
    right = basis.T @ values
    strength = torch.linalg.vector_norm(right, dim=1).sqrt()
    strength = torch.where(strength > 0, strength, 1)
    left, right = basis * strength, right / strength[:, None]
    return (left, right) if scale == 1 else (left * math.sqrt(scale), right * math.sqrt(scale))


def balanced(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors (R, m) and (R, n) of a product firstᵀ·last as its singular terms, as `low_rank` gives them.

    Of all factors with this product they lose least by rounding.
    """
    left, left_rest = torch.linalg.qr(first.T)
    right, right_rest = torch.linalg.qr(last.T)
    turn, singulars, back = torch.linalg.svd(left_rest @ right_rest.T)
    strength = singulars.sqrt()
    return (left @ turn * strength).T, strength[:, None] * (back @ right.T)


def evened(weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Factors with the same product, scaled so that their root mean squares are equal; those with one of zeros stay.

    Half precision can then hold all of them.
    """
    lengths = [
        float(torch.linalg.vector_norm(weight, dtype=torch.float64)) / math.sqrt(weight.numel()) for weight in weights
    ]
    if not all(lengths):
        return tuple(weights)
    mean = math.prod(lengths) ** (1 / len(lengths))
    return tuple(weight * (mean / length) for weight, length in zip(weights, lengths, strict=True))


def _scaled(matrix: Matrix, scale: float) -> Tensor:
    values = matrix()
    return values if scale == 1 else values / scale
