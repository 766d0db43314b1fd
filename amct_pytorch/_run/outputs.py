"""How far the outputs of a decomposed model are from those of the original: the one definition of that error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._report.units import ratio_of
from .inputs import tensors_of


def comparable(outputs: object) -> list[Tensor]:
    """Copies in float64 on the host of the floating-point tensors that a model returned, in their order."""
    return [
        tensor.detach().to("cpu", torch.float64, copy=True)
        for tensor in tensors_of(outputs)
        if tensor.is_floating_point() and not tensor.is_meta
    ]


@dataclass
class ErrorSum:
    """Squared errors of outputs, over everything that was compared.

    Sums of several batches, or of several processes, add up field by field.

    Attributes
    ----------
    difference
        Sum of |output − reference|² over all entries.
    reference
        Sum of |reference|².
    compared
        Number of tensors that these are of.
    agreeing, samples
        Of the samples that have scores of classes: those whose largest is that of the same class, and all.
    """

    difference: float = 0.0
    reference: float = 0.0
    compared: int = 0
    agreeing: int = 0
    samples: int = 0

    def add(self, reference: object, output: object) -> None:
        """Compare what the original model returned with what the decomposed one did.

        Only floating-point tensors count. Where their numbers or shapes differ nothing is added: a detector's, for
        one, depend on what it finds.

        Parameters
        ----------
        reference, output
            Tensors in any structure of containers.
        """
        expected, found = comparable(reference), comparable(output)
        if [one.shape for one in expected] != [one.shape for one in found]:
            return
        pairs = list(zip(expected, found, strict=True))
        for exact, response in pairs:
            self.difference += float((response - exact).square().sum())
            self.reference += float(exact.square().sum())
            self.compared += 1
        scores = [(exact, response) for exact, response in pairs if exact.dim() == 2 and exact.shape[1] > 1]
        if len(scores) == 1:
            ((exact, response),) = scores
            self.agreeing += int((exact.argmax(1) == response.argmax(1)).sum())
            self.samples += len(exact)

    @property
    def ratio(self) -> float | None:
        """‖output − reference‖ / ‖reference‖ over everything compared; None where nothing was."""
        return ratio_of(math.sqrt(self.difference), math.sqrt(self.reference)) if self.compared else None

    @property
    def agreement(self) -> float | None:
        """Share of samples with the same largest score, where exactly one output is (N, C > 1); else None."""
        return self.agreeing / self.samples if self.samples else None
