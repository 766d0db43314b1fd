"""Compare factors fitted to data with plain splits, without fine-tuning: accuracy by rank and MACs.

The network is that of amct_pytorch.demo; factors are fitted to 256 of its training images, without labels, and accuracy
is measured on its 450 test images. Every 3×3 convolution except the first is split at the same share of its full rank,
without rounding.

    python tools/accuracy.py                                 # the table; five minutes
    python tools/accuracy.py --picture docs/accuracy.png     # and the picture (extra: report)
    python tools/accuracy.py --cost                          # the cost of whiten on a ResNet-50-sized stack
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from amct_pytorch._report.figure import Axis, Figure, Level, Series
from amct_pytorch._report.picture import save_picture
from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch.demo import accuracy, load_digits_tensors, load_pretrained
from amct_pytorch.tensor_decompose import (
    Calibration,
    DecompositionConfig,
    RatioRank,
    auto_decomposition,
    plan_decomposition,
)
from amct_pytorch.tensor_decompose.calibration.data import Mode

from networks import resnet50_without_shortcuts
from speed import own_peak

RATIOS = (0.25, 0.15, 0.1, 0.08, 0.06, 0.055, 0.05, 0.045, 0.04, 0.03, 0.02)
"""Shares of the full rank."""

TICKS = (0.25, 0.15, 0.1, 0.06, 0.045, 0.03, 0.02)
"""Those of the shares whose MACs label the axis of the picture."""

VARIANTS = ("plain", "whiten", "refit", "reconstruct")
"""The split without data, and the modes of `Calibration`."""

IMAGES = 256
"""Number of training images that factors are fitted to."""

COST_SIDES = ("forward", "plain", "whiten")
"""The measurements of cost: a forward pass over the data, the split without data, and the calibrated one."""


@dataclass(frozen=True)
class Point:
    """Accuracy of each variant at one share of the full rank.

    Attributes
    ----------
    ratio
        The share of the full rank.
    macs
        Multiply-accumulate operations of the convolutions in a forward pass.
    percent
        Accuracy in percent, by variant.
    """

    ratio: float
    macs: int
    percent: dict[str, float]


def compare(ratios: list[float], seed: int) -> tuple[Point, list[Point]]:
    """The point of the original network, and one for each share of the full rank."""
    train, _, images, labels = load_digits_tensors()
    chosen = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:IMAGES]]
    batches = torch.split(chosen, 32)
    net = load_pretrained()
    counted = plan_decomposition(net, example_inputs=images[:1]).layers
    original = Point(1.0, sum(layer.macs or 0 for layer in counted), {"original": accuracy(net, images, labels)})
    points = []
    for ratio in ratios:
        config = DecompositionConfig(rank=RatioRank(ratio), rank_multiple=1)
        percent, macs = {}, 0
        for variant in VARIANTS:
            calibration = None if variant == "plain" else Calibration(batches, mode=cast(Mode, variant))
            plan = plan_decomposition(
                net := load_pretrained(), config, calibration=calibration, example_inputs=images[:1]
            )
            macs = sum(layer.macs_after or 0 for layer in plan.layers)
            decomposed, _ = plan.apply(net)
            percent[variant] = accuracy(decomposed, images, labels)
        points.append(Point(ratio, macs, percent))
        print(f"{len(points)} of {len(ratios)}", file=sys.stderr, flush=True)
    return original, points


def table(original: Point, points: list[Point]) -> Table:
    """The accuracies, and beside each the share of the plain split's loss that it recovers."""
    rows = [("full", f"{original.macs:,}", f"{original.percent['original']:.2f}", *[""] * len(VARIANTS[1:]))]
    for point in points:
        loss = original.percent["original"] - point.percent["plain"]
        cells = [f"{point.percent['plain']:.2f}"]
        for variant in VARIANTS[1:]:
            recovered = (point.percent[variant] - point.percent["plain"]) / loss if loss > 0 else 1.0
            cells.append(f"{point.percent[variant]:.2f} ({recovered:.0%})")
        rows.append((f"{point.ratio:g}", f"{point.macs:,}", *cells))
    return Table("", tuple(Column(heading, "number") for heading in ("ranks", "MACs", *VARIANTS)), tuple(rows))


def figure(original: Point, points: list[Point]) -> Figure:
    """Accuracy by MACs."""
    macs = {point.ratio: point.macs / original.macs for point in points}
    ticks = tuple((macs[ratio], f"{macs[ratio]:.1%}") for ratio in macs if ratio in TICKS)
    base = original.percent["original"]
    return Figure(
        Axis("MACs of the convolutions, relative to the original", scale="log", ticks=ticks),
        Axis("accuracy on test images, %"),
        tuple(
            Series(variant, tuple((macs[point.ratio], point.percent[variant]) for point in points))
            for variant in VARIANTS
        ),
        (Level(f"original, {base:.2f} %", base),),
        "Digits network, decomposed, not fine-tuned",
    )


def cost_here(variant: str, batch: int) -> None:
    """Run one of the three measurements of cost in this process; print seconds, CPU seconds and peak GiB."""
    torch.manual_seed(0)
    net = resnet50_without_shortcuts()
    data: list[Tensor] = list(torch.split(torch.randn(64, 3, 224, 224), batch))
    auto_decomposition(nn.Sequential(nn.Conv2d(64, 64, 3)))  # imports and thread pools
    with torch.no_grad():
        net(data[0][:1])
    begin, begin_of_cpu = time.perf_counter(), time.process_time()
    if variant == "forward":
        with torch.no_grad():
            for images in data:
                net(images)
    else:
        plan_decomposition(net, calibration=Calibration(data) if variant == "whiten" else None)
    taken = [time.perf_counter() - begin, time.process_time() - begin_of_cpu]
    print(json.dumps([*taken, own_peak() / 2**30]))


def cost(runs: int, batch: int) -> Table:
    """Time and memory of a forward pass over 64 images, of the plain decomposition, and of whiten, in turn."""
    found: dict[str, list[list[float]]] = {variant: [] for variant in COST_SIDES}
    for run in range(runs):
        for variant in COST_SIDES:
            command = [sys.executable, __file__, "--side", variant, "--batch", str(batch)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[variant].append(json.loads(done.stdout))
        print(f"{run + 1} of {runs}", file=sys.stderr, flush=True)
    rows = [
        (variant, *(f"{statistics.median(item[index] for item in found[variant]):.2f}" for index in range(3)))
        for variant in COST_SIDES
    ]
    notes = []
    for index, what in enumerate(("time", "CPU time, which other work on the machine disturbs less")):
        ratios = [
            (whiten[index] - plain[index]) / forward[index]
            for forward, plain, whiten in zip(found["forward"], found["plain"], found["whiten"], strict=True)
        ]
        notes.append(
            f"whiten less plain, over a forward: {statistics.median(ratios):.2f} in {what} "
            f"({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
        )
    columns = (Column("run"), Column("s", "number"), Column("CPU s", "number"), Column("GiB", "number"))
    return Table("", columns, tuple(rows), tuple(notes))


def main() -> None:
    """Compare the variants, or measure the cost, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), help="shares of the full rank")
    parser.add_argument("--seed", type=int, default=0, help="which 256 training images (default 0)")
    parser.add_argument("--picture", type=Path, help="file for a picture of accuracy by MACs")
    parser.add_argument("--cost", action="store_true", help="measure the cost of whiten instead")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side of the cost (default 3)")
    parser.add_argument("--batch", type=int, default=8, help="images per batch for the cost (default 8)")
    parser.add_argument("--side", choices=COST_SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        cost_here(arguments.side, arguments.batch)
        return
    if arguments.cost:
        print(as_text([cost(arguments.runs, arguments.batch)], width=200))
        return
    # One thread fixes the order of summation, so the figures do not depend on the number of cores.
    torch.set_num_threads(1)
    original, points = compare(arguments.ratios, arguments.seed)
    print(as_text([table(original, points)], width=200))
    if arguments.picture:
        save_picture([figure(original, points)], arguments.picture)


if __name__ == "__main__":
    main()
