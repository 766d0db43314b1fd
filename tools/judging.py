"""Networks with images to fit them to and others to judge them by, for the tools.

On the digits network, the percentage is accuracy on the test images; on the pretrained detectors it is agreement with
the original on images that the fit has not seen: what both detect, of all that either detects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from amct_pytorch.demo import load_digits_tensors, load_pretrained
from amct_pytorch.tensor_decompose import Calibration, DecompositionConfig, auto_decomposition
from amct_pytorch.tensor_decompose.calibration.data import Mode

from pretrained import DETECTORS

NETWORKS = ("digits", *DETECTORS)
"""That of amct_pytorch.demo, and the pretrained detectors."""

IMAGES_TO_JUDGE = 16
"""Drawn images that a detector is judged by."""


@dataclass(frozen=True)
class Found:
    """What one decomposition comes to.

    Attributes
    ----------
    percent
        Accuracy, or agreement with the original.
    error
        Relative error of the outputs.
    seconds
        CPU time that it took.
    """

    percent: float
    error: float
    seconds: float


@dataclass
class Case:
    """A network, what to fit it to, and how to judge it.

    Attributes
    ----------
    load
        Gives the network, in eval mode.
    batches
        What it is fitted to, without labels.
    held_out
        What it is judged by.
    percent
        From the outputs found and those of the original.
    rule
        Which layers are split; see `DecompositionConfig`.
    """

    load: Callable[[], nn.Module]
    batches: Sequence[Tensor]
    held_out: Sequence[Tensor]
    percent: Callable[[Tensor, Tensor], float]
    rule: Literal["amct", "any"]
    expected: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.expected = self._outputs(self.load())

    def measure(self, config: DecompositionConfig, mode: Mode | None) -> Found:
        """Decompose the network, without data where no mode is given, and judge it."""
        network = self.load()
        calibration = None if mode is None else Calibration(self.batches, mode=mode)
        begin = time.process_time()
        network, _ = auto_decomposition(network, config=config, calibration=calibration)
        seconds = time.process_time() - begin
        found = self._outputs(network)
        error = float((found - self.expected).norm() / self.expected.norm())
        return Found(self.percent(found, self.expected), error, seconds)

    def _outputs(self, network: nn.Module) -> Tensor:
        with torch.no_grad():
            return torch.cat([cast(Tensor, network(batch)) for batch in self.held_out])


def case(network: str, images: int, seed: int) -> Case:
    """A network of `NETWORKS`, to be fitted to so many images, which are drawn by a seed."""
    if network == "digits":
        train, _, test, labels = load_digits_tensors()
        chosen = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:images]]

        def accuracy(found: Tensor, _: Tensor) -> float:
            return 100 * float((found.argmax(1) == labels).double().mean())

        return Case(load_pretrained, chosen.split(32), [test], accuracy, "amct")
    detector = DETECTORS[network]
    drawn = detector.draw(images + IMAGES_TO_JUDGE, seed).split(1)  # one by one, as some take no others

    def agreement(found: Tensor, expected: Tensor) -> float:
        there, before = detector.found(found), detector.found(expected)
        return 100 * float((there & before).sum() / (there | before).sum())

    return Case(detector.load, drawn[:images], drawn[images:], agreement, detector.rule)
