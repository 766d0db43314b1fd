"""How many positions of the responses a fit needs: accuracy, output error and time by positions per unknown.

The networks are that of examples/digits and two pretrained detectors, on drawn images (extra: real). On the digits
network, the percentage is accuracy on the test images; on the detectors it is agreement with the original on images
that the fit has not seen: what both detect, of all that either detects.

    python tools/positions.py                                              # the table of all networks; an hour
    python tools/positions.py --networks digits --modes refit reconstruct  # seconds
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args
from unittest.mock import patch

import torch
from torch import Tensor, nn

from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch.tensor_decompose import Calibration, DecompositionConfig, RatioRank, auto_decomposition
from amct_pytorch.tensor_decompose.calibration.data import Mode
from amct_pytorch.tensor_decompose.calibration.positions import POSITIONS_PER_UNKNOWN

from digits import accuracy, load_digits_tensors, load_pretrained
from pretrained import DETECTORS, Detector

RATIOS = {"digits": 0.03, "ddddocr": 0.1, "pp-ocr": 0.25}
"""By network, the share of the full rank of every layer that is split: so low that the modes differ."""

POSITIONS = (4, 8, 12, 16, math.inf)
"""Positions sampled per unknown."""

MODES = get_args(Mode)

IMAGES_OF_DIGITS = 256
"""Training images that the digits network is fitted to."""

IMAGES_OF_DETECTORS = 16
"""Drawn images that a detector is fitted to, one by one, as some take no others."""

IMAGES_TO_JUDGE = 16
"""Drawn images that a detector is judged by."""


@dataclass(frozen=True)
class Found:
    """What one fit comes to.

    Attributes
    ----------
    percent
        Accuracy, or agreement with the original.
    error
        Relative error of the outputs.
    seconds
        That the decomposition took.
    """

    percent: float
    error: float
    seconds: float


def measure(network: str, mode: Mode, positions: float, seed: int) -> Found:
    """Fit a network in a mode, on images drawn by a seed, with so many positions per unknown."""
    with patch.dict(POSITIONS_PER_UNKNOWN, {mode: positions}):
        return _of_digits(mode, seed) if network == "digits" else _of_detector(DETECTORS[network], network, mode, seed)


def _of_digits(mode: Mode, seed: int) -> Found:
    train, _, images, labels = load_digits_tensors()
    chosen = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:IMAGES_OF_DIGITS]]
    config = DecompositionConfig(rank=RatioRank(RATIOS["digits"]), rank_multiple=1)
    decomposed, seconds = _decomposed(load_pretrained(), config, torch.split(chosen, 32), mode)
    expected, found = _outputs(load_pretrained(), [images]), _outputs(decomposed, [images])
    return Found(accuracy(decomposed, images, labels), _error(found, expected), seconds)


def _of_detector(detector: Detector, name: str, mode: Mode, seed: int) -> Found:
    images = detector.draw(IMAGES_OF_DETECTORS + IMAGES_TO_JUDGE, seed).split(1)
    chosen, held_out = images[:IMAGES_OF_DETECTORS], images[IMAGES_OF_DETECTORS:]
    config = DecompositionConfig(rank=RatioRank(RATIOS[name]), rank_multiple=1, rule=detector.rule)
    network = detector.load()
    expected = _outputs(network, held_out)
    decomposed, seconds = _decomposed(network, config, chosen, mode)
    found = _outputs(decomposed, held_out)
    there, before = detector.found(found), detector.found(expected)
    agreement = float((there & before).sum() / (there | before).sum())
    return Found(100 * agreement, _error(found, expected), seconds)


def _decomposed(
    network: nn.Module, config: DecompositionConfig, batches: Sequence[Tensor], mode: Mode
) -> tuple[nn.Module, float]:
    """The network decomposed, and the seconds that it took."""
    begin = time.perf_counter()
    network, _ = auto_decomposition(network, config=config, calibration=Calibration(batches, mode=mode))
    return network, time.perf_counter() - begin


def _outputs(network: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([cast(Tensor, network(batch)) for batch in batches])


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def table(networks: Sequence[str], modes: Sequence[Mode], positions: Sequence[float], seeds: int) -> Table:
    """Means over the seeds for each network and number of positions."""
    rows = []
    for network in networks:
        for count in positions:
            cells = [network, "all" if math.isinf(count) else f"{count:g}"]
            for mode in modes:
                found = [measure(network, mode, count, seed) for seed in range(seeds)]
                cells += [
                    f"{statistics.fmean(one.percent for one in found):.2f}",
                    f"{statistics.fmean(one.error for one in found):.4f}",
                    f"{statistics.fmean(one.seconds for one in found):.1f}",
                ]
            rows.append(tuple(cells))
            print(" ".join(cells), file=sys.stderr, flush=True)
    headings = [f"{mode} {unit}" for mode in modes for unit in ("%", "error", "s")]
    columns = (Column("network"), *(Column(heading, "number") for heading in ("positions", *headings)))
    return Table("", columns, tuple(rows))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=RATIOS, default=list(RATIOS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--positions", type=float, nargs="+", default=list(POSITIONS), help="per unknown; inf for all")
    parser.add_argument("--seeds", type=int, default=3, help="how many draws of images to average over (default 3)")
    arguments = parser.parse_args()
    # One thread fixes the order of summation, so the figures do not depend on the number of cores.
    torch.set_num_threads(1)
    print(as_text([table(arguments.networks, arguments.modes, arguments.positions, arguments.seeds)], width=200))


if __name__ == "__main__":
    main()
