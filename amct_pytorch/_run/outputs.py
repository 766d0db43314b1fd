"""Error of a decomposed model's outputs relative to those of the original; its only definition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._report.units import ratio_of
from .inputs import tensors_of


def comparable(outputs: object) -> list[Tensor]:
    """Float64 copies on the host of the floating-point tensors that a model returned, in order.

    Parameters
    ----------
    outputs
        Tensors in any structure of containers.
    """
    return [
        tensor.detach().to("cpu", torch.float64, copy=True)
        for tensor in tensors_of(outputs)
        if tensor.is_floating_point() and not tensor.is_meta
    ]


@dataclass
class ErrorSum:
    """Squared errors of outputs, summed over everything that was compared.

    The sums of several batches, or of several processes, are added field by field.

    Attributes
    ----------
    difference
        Sum of |output − reference|² over all entries.
    reference
        Sum of |reference|² over all entries.
    compared
        Number of tensors compared.
    agreeing, samples
        Of the samples with class scores: the number whose top class is the same, and the number of all.
    """

    difference: float = 0.0
    reference: float = 0.0
    compared: int = 0
    agreeing: int = 0
    samples: int = 0

    def add(self, reference: object, output: object) -> None:
        """Compare the outputs of the decomposed model with those of the original.

        Only floating-point tensors count. If their number or shapes differ, nothing is added: those of a detector, for
        example, depend on the number of detections. Entries that are not finite in the original's outputs, as those of
        masked positions are, cannot be compared and do not count.

        Parameters
        ----------
        reference, output
            Outputs of the original and of the decomposed model: tensors in any structure of containers.
        """
        expected, found = comparable(reference), comparable(output)
        if [one.shape for one in expected] != [one.shape for one in found]:
            return
        pairs = list(zip(expected, found, strict=True))
        for exact, response in pairs:
            finite = exact.isfinite()
            if not finite.all():
                exact, response = exact[finite], response[finite]
                if not len(exact):
                    continue
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
        """‖output − reference‖ / ‖reference‖ over everything compared; None if nothing was."""
        return ratio_of(math.sqrt(self.difference), math.sqrt(self.reference)) if self.compared else None

    @property
    def agreement(self) -> float | None:
        """Share of samples with the same top class; None unless exactly one output is (N, C > 1)."""
        return self.agreeing / self.samples if self.samples else None
