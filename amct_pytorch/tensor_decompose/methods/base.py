"""What a decomposition method is: it replaces one convolution by smaller ones in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ..config import DecompositionConfig
from ..model.spec import ConvSpec


@dataclass(frozen=True)
class Factors:
    """A kernel as the weights of the convolutions that replace it.

    Attributes
    ----------
    weights
        One weight for each convolution in the row, float32 or float64, on the CPU.
    rank
        Number of channels between the convolutions.
    why
        Where the rank comes from, in words.
    error
        Relative error of the composed kernel in the Frobenius norm.
    """

    weights: tuple[torch.Tensor, ...]
    rank: int
    why: str
    error: float


class Method(Protocol):
    """What a decomposition method can say of a convolution's geometry, and do to its weight."""

    name: str

    def why_not(self, conv: ConvSpec) -> str | None:
        """Why a convolution of this geometry is kept as it is, or None where it can be decomposed."""

    def mode(self, conv: ConvSpec) -> str:
        """Name of the way in which this geometry is split."""

    def full_rank(self, conv: ConvSpec) -> int:
        """The rank at which the split is exact for every weight."""

    def stages(self, conv: ConvSpec, rank: int) -> tuple[ConvSpec, ...]:
        """The convolutions that replace this one, in order; only the last may have a bias."""

    def factorise(
        self, weight: torch.Tensor, conv: ConvSpec, settings: DecompositionConfig, root: torch.Tensor | None = None
    ) -> Factors:
        """Weights for the stages, from the weight (out, in, kh, kw), float32 or float64, finite, on the CPU.

        With a root, (d, d) and regular, what is least at the rank is not the error of the weight but ‖root·E‖:
        E is the error with what the first convolution sees, (in, its kernel) flattened to d, along its rows. The
        spectrum that the rank is chosen from is then that of root·kernel.
        """
