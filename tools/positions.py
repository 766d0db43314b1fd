"""How many positions of the responses a fit needs: accuracy, output error and time by positions per unknown.

The networks, and what the percentages are of, are described in judging.py; the time is CPU time.

    python tools/positions.py                                              # the table of all networks; an hour
    python tools/positions.py --networks digits --modes refit reconstruct  # seconds
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import get_args
from unittest.mock import patch

import torch

from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch.tensor_decompose import DecompositionConfig, RatioRank
from amct_pytorch.tensor_decompose.calibration.data import LayerMode
from amct_pytorch.tensor_decompose.calibration.positions import POSITIONS_PER_UNKNOWN

from judging import Found, case

RATIOS = {"digits": 0.03, "ddddocr": 0.1, "pp-ocr": 0.25}
"""By network, the share of the full rank of every layer that is split: so low that the modes differ."""

ALL = 1e9
"""So many positions per unknown that all are taken."""

POSITIONS = (4, 8, 12, 16, ALL)
"""Positions sampled per unknown."""

MODES = get_args(LayerMode)

IMAGES = {"digits": 256, "ddddocr": 16, "pp-ocr": 16}
"""By network, how many images it is fitted to."""


def measure(network: str, mode: LayerMode, positions: float, seed: int) -> Found:
    """Fit a network in a mode, on images drawn by a seed, with so many positions per unknown."""
    judged = case(network, IMAGES[network], seed)
    config = DecompositionConfig(rank=RatioRank(RATIOS[network]), rank_multiple=1, rule=judged.rule)
    with patch.dict(POSITIONS_PER_UNKNOWN, {mode: positions}):
        return judged.measure(config, mode)


def table(networks: Sequence[str], modes: Sequence[LayerMode], positions: Sequence[float], seeds: int) -> Table:
    """Means over the seeds for each network and number of positions."""
    rows = []
    for network in networks:
        for count in positions:
            cells = [network, "all" if count >= ALL else f"{count:g}"]
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
    parser.add_argument("--positions", type=float, nargs="+", default=list(POSITIONS), help="per unknown; 1e9 for all")
    parser.add_argument("--seeds", type=int, default=3, help="how many draws of images to average over (default 3)")
    arguments = parser.parse_args()
    # One thread fixes the order of summation, so the figures do not depend on the number of cores.
    torch.set_num_threads(1)
    print(as_text([table(arguments.networks, arguments.modes, arguments.positions, arguments.seeds)], width=200))


if __name__ == "__main__":
    main()
