"""Singular values and left singular vectors of a matrix, fast: one Gram matrix, one symmetric eigendecomposition.

For a matrix A of L rows and M columns, L <= M, the eigenvectors of the L×L Gram matrix A·Aᵀ are the left
singular vectors of A, and its eigenvalues the squared singular values. Time is O(L²·M), memory O(L² + L·M):
nothing is M×M.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from ..._run.interrupts import Switch, restored_after
from ..ranks.spectrum import Singulars

# Blocks of rows that the Gram matrix is computed in, so that little of its upper triangle is.
_BLOCKS = 8
# Rounding of the Gram matrix and of its reduction was seen up to 5·eps of the largest eigenvalue; this has a margin.
_ROUNDINGS = 16


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


def exact_matmul() -> AbstractContextManager[None]:
    """True float32 products on the host, whatever precision the user allows elsewhere. Switches the whole process.

    `torch.set_float32_matmul_precision("medium")`, a oneDNN fast-math environment and autocast would each
    turn them into bfloat16.
    """
    # The public switch refuses where torch.backends.disable_global_flags was called, and the public context
    # manager touches other flags, with warnings.
    onednn = Switch(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, False)
    autocast = torch.is_autocast_enabled("cpu")  # of this thread alone

    def change() -> None:
        onednn.change()
        torch.set_autocast_enabled("cpu", False)

    def restore() -> None:
        onednn.restore()
        torch.set_autocast_enabled("cpu", autocast)

    return restored_after(change, restore)


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
    uncertainty = _ROUNDINGS * precision.eps * float(descending[0])
    return Eigen(vectors, descending, uncertainty)


def _gram(matrix: torch.Tensor) -> torch.Tensor:
    """The lower triangle of A·Aᵀ, by blocks of rows; entries above it are not defined."""
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
