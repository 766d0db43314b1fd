"""What ranks are chosen from: the singular values of a kernel, unfolded in as many ways as its split has ranks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

Singulars = NDArray[np.float64]
"""All singular values of a matrix, in descending order, in float64."""

# Rounding may cost the leading terms this share of the error that they leave anyway.
_TOLERATED_BLUR = 0.01


@dataclass(frozen=True)
class MatricisedKernel:
    """What a rank policy is given of a layer's kernel as a matrix of L rows and M columns, L <= M.

    Attributes
    ----------
    rows, columns
        L and M.
    channels
        min(in_channels, out_channels).
    multiple
        Ranks are rounded to multiples of this.
    position
        Which of the ranks of the split is wanted, from 0 on.
    full_ranks
        The largest possible of all its ranks.
    """

    rows: int
    columns: int
    channels: int
    multiple: int
    position: int
    full_ranks: tuple[int, ...]


@dataclass(frozen=True)
class Unfolding:
    """A kernel as a matrix of L rows and M columns, L <= M, by its singular values.

    Attributes
    ----------
    rows, columns
        L and M.
    channels
        min(in_channels, out_channels) of the layer.
    values
        The L eigenvalues of the matrix divided by ``scale`` times its transpose, in descending order, not below 0.
    uncertainty
        How far an eigenvalue may be from the true one, by rounding.
    scale
        What the matrix was divided by, so that its squares neither over- nor underflow.
    basis
        Leading left singular vectors (L, kept) in columns, in order of *ascending* singular value; None where they
        are not at hand.
    """

    rows: int
    columns: int
    channels: int
    values: Singulars
    uncertainty: float
    scale: float = 1.0
    basis: torch.Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def singulars(self) -> Singulars:
        """Singular values in descending order."""
        return np.sqrt(self.values) * self.scale

    @property
    def disturbed_singulars(self) -> tuple[Singulars, Singulars]:
        """The singular values if every eigenvalue erred downwards, and if every one erred upwards."""
        lower = np.sqrt(np.maximum(self.values - self.uncertainty, 0))
        return lower * self.scale, np.sqrt(self.values + self.uncertainty) * self.scale

    def blurs(self, rank: int) -> bool:
        """Whether rounding may cost the leading terms over a hundredth of the error that they leave anyway."""
        left = self.values[rank:].sum()
        return rank < len(self.values) and bool(rank * self.uncertainty > _TOLERATED_BLUR * left)

    def left_out(self, rank: int) -> float:
        """Share of the energy, the sum of squared singular values, beyond the leading terms."""
        energy = float(self.values.sum())
        return float(self.values[rank:].sum()) / energy if energy else 0.0


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a kernel, for every rank of its split.

    Attributes
    ----------
    unfoldings
        One for each rank, in their order.
    exact
        Whether it was computed in float64, so that there is nothing more precise to ask for.
    energies
        Of a split with two ranks the energy (R, R') of the core between each pair of singular vectors, up to a
        common factor; None where it is not known.
    """

    unfoldings: tuple[Unfolding, ...]
    exact: bool
    energies: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    def error(self, ranks: Sequence[int]) -> float:
        """The relative error to expect of a split at these ranks.

        The error of the best split where there is one rank; with several, that of the truncated higher-order SVD
        (L. De Lathauwer, B. De Moor, J. Vandewalle, "A multilinear singular value decomposition", 2000) where the
        energies of its core are known, and else an upper bound on it. In the norm that the spectrum was computed in.
        """
        if self.energies is not None:
            first, last = ranks
            energy = self.energies.sum()
            left_out = self.energies[first:].sum() + self.energies[:first, last:].sum()
            return math.sqrt(left_out / energy) if energy else 0.0
        left_out = sum(part.left_out(rank) for part, rank in zip(self.unfoldings, ranks, strict=True))
        return math.sqrt(min(left_out, 1.0))

    def blurs(self, ranks: Sequence[int]) -> bool:
        """Whether the leading terms at these ranks want computing in float64."""
        return not self.exact and any(part.blurs(rank) for part, rank in zip(self.unfoldings, ranks, strict=True))

    def keeping(self, ranks: Sequence[int]) -> Spectrum:
        """The same with no more singular vectors than a split at these ranks takes; at rank 0 with none."""
        parts = []
        for part, rank in zip(self.unfoldings, ranks, strict=True):
            basis = part.basis
            if basis is not None and rank < basis.shape[1]:
                basis = basis[:, basis.shape[1] - rank :].clone() if rank else None
            parts.append(dataclasses.replace(part, basis=basis))
        return dataclasses.replace(self, unfoldings=tuple(parts))

    def has_bases(self, ranks: Sequence[int]) -> bool:
        """Whether it has the singular vectors that a split at these ranks takes."""
        return all(
            part.basis is not None and part.basis.shape[1] >= rank
            for part, rank in zip(self.unfoldings, ranks, strict=True)
        )
