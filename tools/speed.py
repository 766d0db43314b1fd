"""Time our decomposition against the reference product's recipe, side by side in one run.

For each layer the recipe computes two float64 SVDs of the same matricised kernel, with both full bases. The two run in
turn, in pairs, each run in a separate process; the table has the medians. Peak memory is that of the whole process. The
GEMM bound is the time of the minimum arithmetic of a split, at the speed of this machine's float32 matrix products.

    python tools/speed.py            # minutes
    python tools/speed.py --large    # most of an hour
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch.tensor_decompose import auto_decomposition
from amct_pytorch.tensor_decompose.methods import get_method
from amct_pytorch.tensor_decompose.model.spec import LayerSpec, spec_of

from networks import RESNET50, RESNET101, RESNET_STEM, Conv, resnet_bottlenecks, vgg16_stages

METHOD = get_method("separable")
"""The method that the recipe implements."""

Shape = tuple[int, int, int]
"""Input channels, output channels, kernel side."""


@dataclass(frozen=True)
class Case:
    """Layers to decompose.

    Attributes
    ----------
    name
        Label in the table.
    layers
        Number of layers of each shape.
    large
        Whether to measure the case only if asked to, in a single pair of runs.
    """

    name: str
    layers: dict[Shape, int]
    large: bool = False

    def model(self) -> nn.ModuleList:
        """The layers, with white noise as weights."""
        generator = torch.Generator().manual_seed(0)
        convs = nn.ModuleList()
        for (in_channels, out_channels, side), count in self.layers.items():
            for _ in range(count):
                conv = nn.Conv2d(in_channels, out_channels, side, bias=False)
                nn.init.normal_(conv.weight, std=0.02, generator=generator)
                convs.append(conv)
        return convs


def _single(channels: int, side: int, *, large: bool = False) -> Case:
    return Case(f"({channels},{channels},{side},{side})", {(channels, channels, side): 1}, large)


def _network(name: str, convs: Iterable[Conv]) -> Case:
    """The convolutions of a network, except those with 1×1 kernels."""
    return Case(name, Counter(conv[:3] for conv in convs if conv.side > 1))


def _resnet(name: str, blocks: Sequence[int]) -> Case:
    return _network(name, [RESNET_STEM, *chain.from_iterable(resnet_bottlenecks(blocks))])


CASES = (
    _single(256, 3),
    _single(512, 3),
    _single(1024, 3),
    _single(256, 5),
    _single(512, 5),
    _single(1024, 5, large=True),
    _single(2048, 3, large=True),
    _single(2048, 5, large=True),
    _network("VGG-16", chain.from_iterable(vgg16_stages())),
    _resnet("ResNet-50", RESNET50),
    _resnet("ResNet-101", RESNET101),
    Case(
        "Stable Diffusion UNet",
        {(320, 320, 3): 10, (320, 640, 3): 1, (640, 640, 3): 10, (640, 1280, 3): 1, (1280, 1280, 3): 19,
         (2560, 1280, 3): 5, (1920, 1280, 3): 1, (1920, 640, 3): 1, (1280, 640, 3): 1, (960, 640, 3): 1,
         (960, 320, 3): 1, (640, 320, 3): 2},
        large=True,
    ),
)  # fmt: skip


def ours(model: nn.ModuleList) -> None:
    """Decompose the layers, in place."""
    auto_decomposition(model)


def recipe(model: nn.ModuleList) -> None:
    """Compute what the reference product computes for the layers that it decomposes, without its bookkeeping."""
    for conv in model:
        assert isinstance(conv, nn.Conv2d)
        if (METHOD.impossible(spec_of(conv)) or METHOD.unadvised(spec_of(conv))) is not None:
            continue
        weight = conv.weight.detach().numpy().astype(np.float64)
        out_channels, in_channels, height, width = weight.shape
        matrix = weight.transpose(1, 2, 0, 3).reshape(in_channels * height, out_channels * width)
        for _ in range(2):
            np.linalg.svd(matrix, full_matrices=True)


SIDES: dict[str, Callable[[nn.ModuleList], None]] = {"ours": ours, "recipe": recipe}
"""The two implementations that are compared."""


@dataclass(frozen=True)
class Cost:
    """The cost of one run.

    Attributes
    ----------
    seconds
        Its duration.
    gib
        Peak memory of its process in GiB.
    """

    seconds: float
    gib: float


def cost(side: str, case: Case) -> Cost:
    """The cost of one run, in a separate process."""
    command = [sys.executable, __file__, "--run", json.dumps([side, [[*shape, n] for shape, n in case.layers.items()]])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(*json.loads(done.stdout))


def recipe_cost(case: Case) -> Cost:
    """The cost of the recipe; in a large case each shape runs once, and its time is multiplied by its number."""
    if not (case.large and len(case.layers) > 1):
        return cost("recipe", case)
    costs = [(cost("recipe", Case("", {shape: 1})), count) for shape, count in case.layers.items()]
    # No process had the whole list in memory, so its peak is unknown.
    return Cost(sum(one.seconds * count for one, count in costs), math.nan)


def run_here(side: str, layers: list[list[int]]) -> None:
    """Run a case in this process, and print its cost."""
    case = Case("", {(in_, out, side): count for in_, out, side, count in layers})
    model = case.model()
    SIDES[side](CASES[0].model())  # imports and thread pools
    begin = time.perf_counter()
    SIDES[side](model)
    taken = time.perf_counter() - begin
    print(json.dumps([taken, own_peak() / 2**30]))


def own_peak() -> int:
    """Peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's peak on Linux is inherited from the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gemm_rate() -> float:
    """Floating-point operations per second of float32 matrix products, the best of five."""
    matrix = torch.randn(3072, 3072)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - begin)
    return 2 * 3072**3 / min(times)


def operations(case: Case) -> float:
    """Minimum floating-point operations of a split at a quarter of the full rank, by the Gram matrix.

    Gram matrix, tridiagonalisation, leading eigenvectors, projection, residual.
    """
    total = 0.0
    for (in_channels, out_channels, side), count in case.layers.items():
        conv = LayerSpec(in_channels, out_channels, (side, side))
        if (METHOD.impossible(conv) or METHOD.unadvised(conv)) is None:
            rows, columns = METHOD.full_ranks(conv)[0], side * max(in_channels, out_channels)
            rank = rows / 4
            one = rows**2 * columns + 4 / 3 * rows**3 + 2 * rows**2 * rank + 4 * rows * columns * rank
            total += count * one
    return total


# A row for each case, with the medians over its pairs of runs.
COLUMNS = (
    Column("layers"),
    Column("ours s", "number"),
    Column("recipe s", "number"),
    Column("ratio", "number"),
    Column("ours GiB", "number"),
    Column("recipe GiB", "number"),
    Column("of GEMM bound", "number"),
)


def measure(case: Case, runs: int) -> tuple[str, ...]:
    """One row of the table."""
    pairs = [(cost("ours", case), recipe_cost(case)) for _ in range(runs)]
    mine = statistics.median(own.seconds for own, _ in pairs)
    bound = operations(case) / gemm_rate()
    return (
        case.name,
        f"{mine:.2f}",
        f"{statistics.median(other.seconds for _, other in pairs):.1f}",
        f"{statistics.median(other.seconds / own.seconds for own, other in pairs):.1f}×",
        f"{statistics.median(own.gib for own, _ in pairs):.2f}",
        f"{statistics.median(other.gib for _, other in pairs):.2f}".replace("nan", "–"),
        f"{bound / mine:.0%}",
    )


def main() -> None:
    """Measure the cases named on the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--large", action="store_true", help="also the large layers and the UNet, one pair of runs each"
    )
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs (default 3)")
    parser.add_argument("--only", metavar="NAME", action="append", help="only the case of this name; may be repeated")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run_here(*json.loads(arguments.run))
        return
    cases = [
        case for case in CASES if (case.name in arguments.only if arguments.only else arguments.large or not case.large)
    ]
    if not cases:
        parser.error(f"no case of that name; there are {', '.join(repr(case.name) for case in CASES)}")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}", flush=True)
    rows = []
    for case in cases:
        rows.append(measure(case, 1 if case.large else arguments.runs))
        print(f"{len(rows)} of {len(cases)}: {' | '.join(rows[-1])}", file=sys.stderr, flush=True)
    print(as_text([Table(columns=COLUMNS, rows=tuple(rows))], width=200))


if __name__ == "__main__":
    main()
