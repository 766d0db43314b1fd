"""Leading singular terms of a matrix, fast: one Gram matrix, one symmetric eigendecomposition, one projection.

For a matrix A of L rows and M columns, L <= M, the eigenvectors of the L×L Gram matrix A·Aᵀ are the left
singular vectors of A, and its eigenvalues the squared singular values. With U the leading R of them, the best
approximation of rank R is U·(Uᵀ·A): a projection, so it is as exact as U is orthonormal, however badly
conditioned the Gram matrix is. Time is O(L²·M), memory O(L² + L·M): nothing is M×M.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..ranks.evbmf import Singulars

_BLOCKS = 8


@dataclass(frozen=True)
class Eigen:
    """Eigendecomposition of the Gram matrix of A (L, M).

    Attributes
    ----------
    vectors
        (L, L), eigenvectors in columns, in order of *ascending* eigenvalue.
    values
        The L eigenvalues in descending order, not below zero.
    uncertainty
        How far an eigenvalue may be from the true one, by rounding.
    """

    vectors: torch.Tensor
    values: Singulars
    uncertainty: float

    @property
    def singulars(self) -> Singulars:
        """Singular values of A in descending order."""
        return np.sqrt(self.values)

    @property
    def disturbed_singulars(self) -> tuple[Singulars, Singulars]:
        """The singular values if every eigenvalue erred downwards, and if every one erred upwards."""
        return (
            np.sqrt(np.maximum(self.values - self.uncertainty, 0)),
            np.sqrt(self.values + self.uncertainty),
        )

    def blurs(self, rank: int) -> bool:
        """Whether rounding may cost the leading terms over a hundredth of the error they leave anyway."""
        return rank < len(self.values) and bool(rank * self.uncertainty > 0.01 * self.values[rank:].sum())


@contextlib.contextmanager
def exact_matmul() -> Iterator[None]:
    """True float32 products on the host, whatever precision the user allows elsewhere. Switches the whole process.

    `torch.set_float32_matmul_precision("medium")`, a oneDNN fast-math environment and autocast would each
    turn them into bfloat16.
    """
    # The public switch refuses where torch.backends.disable_global_flags was called, and the public context
    # manager touches other flags, with warnings.
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def eigen_of_gram(matrix: torch.Tensor) -> Eigen:
    """Eigendecomposition of A·Aᵀ in the precision of the matrix.

    Parameters
    ----------
    matrix
        A, (L, M) with L <= M, finite, float32 or float64, on the CPU; its squares must not overflow.
    """
    precision = torch.finfo(matrix.dtype)
    gram = _gram(matrix)
    del matrix
    values, vectors = _eigh(gram)
    descending = values.double().flip(0).clamp_min(0).numpy()
    # Rounding of the Gram matrix and of its reduction: seen up to 5·eps·λ₁, so this has a margin.
    uncertainty = 16 * precision.eps * float(descending[0])
    return Eigen(vectors, descending, uncertainty)


def project(matrix: torch.Tensor, eigen: Eigen, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Best approximation left·right of a matrix at a rank, balanced between the two.

    Parameters
    ----------
    matrix
        A, (L, M), the matrix that eigen was computed from.
    eigen
        Eigendecomposition of its Gram matrix.
    rank
        Number R of leading terms, 1 <= R <= L.

    Returns
    -------
    left : torch.Tensor
        (L, R).
    right : torch.Tensor
        (R, M). Its row r has the same norm as column r of left: the square root of the singular value.
    error : float
        ‖A − left·right‖ / ‖A‖ in the Frobenius norm, measured; 0 for a matrix of zeros.
    """
    basis = eigen.vectors[:, -rank:].flip(1)
    right = basis.T @ matrix
    error = _relative_residual(matrix, basis, right)
    strength = torch.linalg.vector_norm(right, dim=1).sqrt()
    strength = torch.where(strength > 0, strength, 1)
    return basis * strength, right / strength[:, None], error


def _gram(matrix: torch.Tensor) -> torch.Tensor:
    """The lower triangle of A·Aᵀ, by blocks of rows; what lies above it is not defined."""
    rows = len(matrix)
    gram = torch.empty(rows, rows, dtype=matrix.dtype, device="cpu")
    step = math.ceil(rows / _BLOCKS)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        gram[start:stop, :stop] = matrix[start:stop] @ matrix[:stop].T
    return gram


def _eigh(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ascending eigenvalues and eigenvectors of a symmetric matrix given by its lower triangle."""
    try:
        values, vectors = torch.linalg.eigh(gram, UPLO="L")
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # documented, but not in its __all__
        # Divide and conquer can fail to converge; the QR algorithm behind "ev" practically cannot.
        from scipy.linalg import eigh

        found, basis = eigh(gram.double().numpy(), lower=True, driver="ev", check_finite=False)
        values = torch.from_numpy(found).to(gram.dtype)
        vectors = torch.from_numpy(basis).to(gram.dtype)
    return values, vectors


def _relative_residual(matrix: torch.Tensor, basis: torch.Tensor, right: torch.Tensor) -> float:
    lost = total = 0.0
    step = math.ceil(matrix.shape[1] / _BLOCKS)
    for block, image in zip(torch.split(matrix, step, dim=1), torch.split(right, step, dim=1), strict=True):
        lost += float(torch.linalg.vector_norm(block - basis @ image)) ** 2
        total += float(torch.linalg.vector_norm(block)) ** 2
    return math.sqrt(lost / total) if total else 0.0
