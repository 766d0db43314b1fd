"""Whether a budget of latency is kept: what is expected, what planning measures, and what a benchmark finds afterwards.

VGG-16 with its dense layers and ResNet-50, with random weights, since times do not depend on them. Planning is timed
twice: the first time the layers are measured, unless an earlier run has done that, the second their times are known.

    python tools/latency.py                                        # on one thread of the CPU; ten minutes
    python tools/latency.py --networks ResNet-50 --threads 1 2 --side 64
    python tools/latency.py --backend cuda --dtype float16 --batch 32
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch.benchmark import benchmark
from amct_pytorch.errors import AmctError
from amct_pytorch.tensor_decompose import Budget, DecompositionPlan, plan_decomposition

from networks import resnet50, vgg16_with_dense_layers

NETWORKS: dict[str, Callable[[], nn.Module]] = {"VGG-16": vgg16_with_dense_layers, "ResNet-50": resnet50}

COLUMNS = (
    Column("network"),
    Column("threads", "number"),
    Column("budget", "number"),
    Column("expected", "number"),
    Column("measured", "number"),
    Column("rounds", "number"),
    Column("benchmark", "number"),
    Column("CPU share", "number"),
    Column("layers split", "number"),
    Column("slower alone", "number"),
    Column("seconds cold", "number"),
    Column("seconds warm", "number"),
)


def planned(model: nn.Module, images: torch.Tensor, budget: Budget, name: str) -> tuple[DecompositionPlan, float]:
    """The plan, and the seconds that it took."""
    begin = time.perf_counter()

    def report(done: int, total: int, what: str) -> None:
        print(f"\r{name}: {time.perf_counter() - begin:.0f} s, {what:30}", end="", file=sys.stderr)

    plan = plan_decomposition(model, budget=budget, example_inputs=images, progress=report)
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    return plan, time.perf_counter() - begin


def row(name: str, threads: int, arguments: argparse.Namespace) -> tuple[str, ...]:
    """A row of the table."""
    torch.set_num_threads(threads)
    model = NETWORKS[name]()
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.batch, 3, arguments.side, arguments.side, generator=draw)
    dtype = getattr(torch, arguments.dtype)
    settings = {"backend": arguments.backend, "dtype": dtype, "compiled": arguments.compiled}
    budget = Budget(latency=arguments.budget, **settings, refresh=arguments.refresh)
    plan, cold = planned(model, images, budget, name)
    plan, warm = planned(model, images, Budget(latency=arguments.budget, **settings), name)
    print(plan.budget)
    decomposed = sum(layer.decompose for layer in plan.layers)
    start = (name, str(threads), f"{arguments.budget:g}")
    if plan.latency is None:
        return (*start, "", "", "", "", "", "0", "", f"{cold:.0f}", f"{warm:.0f}")
    after, _ = plan.apply(copy.deepcopy(model))
    report = benchmark(model, after, images, arguments.backend, dtypes=[dtype], compiled=arguments.compiled)
    run = report.runs[-1]
    share = run.model.cpu_share
    return (
        *start,
        f"{plan.latency.expected:.3f}",
        f"{plan.latency.measured:.3f}",
        str(plan.latency.rounds),
        f"{1 / run.model.speed_up.ratio:.3f}",
        "" if share is None else f"{share:.2f}",
        f"{decomposed} of {len(plan.layers)}",
        str(sum(layer.verdict == "slower" for layer in run.layers)),
        f"{cold:.0f}",
        f"{warm:.0f}",
    )


def main() -> int:
    """Print a row for each network and number of threads."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="of the CPU (default 1)")
    parser.add_argument("--budget", type=float, default=0.6, help="share of the time (default 0.6)")
    parser.add_argument("--backend", default="cpu", help="where to measure (default cpu)")
    parser.add_argument("--dtype", default="float32", help="of weights and images (default float32)")
    parser.add_argument("--batch", type=int, default=1, help="images a run (default 1)")
    parser.add_argument("--side", type=int, default=224, help="of the images (default 224)")
    parser.add_argument("--compiled", action="store_true", help="measure compiled models")
    parser.add_argument("--refresh", action="store_true", help="measure again what an earlier run has measured")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        for threads in arguments.threads:
            try:
                rows.append(row(name, threads, arguments))
            except AmctError as error:
                print(f"{name}, {threads} threads: {error}", file=sys.stderr)
    print(as_text([Table("", COLUMNS, tuple(rows))], 160))
    return 0 if len(rows) == len(arguments.networks) * len(arguments.threads) else 1


if __name__ == "__main__":
    sys.exit(main())
