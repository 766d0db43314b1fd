"""Networks with images to fit them to and others to judge them by, for the tools.

On the digits network, the percentage is accuracy on the test images; on pretrained networks it is what real_networks.py
says, such as agreement with the original or characters read right, on images that the fit has not seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from amct_pytorch.demo import load_digits_tensors, load_pretrained
from amct_pytorch.tensor_decompose import Calibration, DecompositionConfig, auto_decomposition
from amct_pytorch.tensor_decompose.calibration.data import Mode

from networks import NETWORKS as RANDOM_NETWORKS
from real_networks import REAL_NETWORKS

NETWORKS = ("digits", *REAL_NETWORKS)
"""That of amct_pytorch.demo, and the pretrained ones."""

IMAGES = {
    "digits": 256,
    **{name: network.images for name, network in REAL_NETWORKS.items()},
    **dict.fromkeys(RANDOM_NETWORKS, 2),
}
"""By network, how many images are enough to fit factors to."""

IMAGES_TO_JUDGE = 16
"""Drawn images that a pretrained network is judged by."""


@dataclass(frozen=True)
class Found:
    """What one decomposition comes to.

    Attributes
    ----------
    percent
        Accuracy, agreement with the original, or characters right.
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
        self.expected = self.outputs(self.load())

    def measure(self, config: DecompositionConfig, mode: Mode | None) -> Found:
        """Decompose the network, without data where no mode is given, and judge it."""
        network = self.load()
        calibration = None if mode is None else Calibration(self.batches, mode=mode)
        begin = time.process_time()
        network, _ = auto_decomposition(network, config=config, calibration=calibration)
        seconds = time.process_time() - begin
        found = self.outputs(network)
        error = float((found - self.expected).norm() / self.expected.norm())
        return Found(self.percent(found, self.expected), error, seconds)

    def outputs(self, network: nn.Module) -> Tensor:
        """What a network gives for the images to judge by."""
        with torch.no_grad():
            return torch.cat([cast(Tensor, network(batch)) for batch in self.held_out])


def case(network: str, images: int, seed: int, to_judge: int = IMAGES_TO_JUDGE) -> Case:
    """A network to be fitted to so many images and judged by others, which are drawn by a seed.

    One of `NETWORKS`, or of networks.py with random weights, which has no score: it is for times alone.
    """
    if network == "digits":
        train, _, test, labels = load_digits_tensors()
        chosen = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:images]]

        def accuracy(found: Tensor, _: Tensor) -> float:
            return 100 * float((found.argmax(1) == labels).double().mean())

        return Case(load_pretrained, chosen.split(32), [test], accuracy, "amct")
    if network in RANDOM_NETWORKS:
        noise = torch.randn(images + to_judge, 3, 224, 224, generator=torch.Generator().manual_seed(seed)).split(1)
        return Case(RANDOM_NETWORKS[network], noise[:images], noise[images:], lambda *_: math.nan, "amct")
    real = REAL_NETWORKS[network]
    drawn = real.draw(images + to_judge, seed)
    batches, truth = drawn.inputs.split(1), drawn.truth[images:]  # one by one, as some take no others

    def score(found: Tensor, expected: Tensor) -> float:
        return real.score(found, expected, truth)

    return Case(real.load, batches[:images], batches[images:], score, real.rule)
