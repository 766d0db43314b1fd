"""Whether decomposed networks are computed correctly on a device, and faster.

Validates and times the shipped digits network, and networks with the convolutions of VGG-16, ResNet-50 and ResNet-101
on images of 224×224. The latter have random weights. Times do not depend on them but ranks do, and are at the lower
limit of the default policy.

    python tools/benchmark.py                                          # the CPU, minutes
    python tools/benchmark.py --backend npu --dtypes float32 float16 bfloat16 --layers --save reports
    python tools/benchmark.py --backend cuda --profile --layers        # and what the device does meanwhile, by kernel
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch._report.units import in_ms, name_of
from amct_pytorch.backend import Backend, BackendStatus, get_backend, list_backends
from amct_pytorch.benchmark import BenchmarkReport, BenchmarkRun, benchmark
from amct_pytorch.demo import load_pretrained
from amct_pytorch.errors import AmctError
from amct_pytorch.tensor_decompose import auto_decomposition
from amct_pytorch.validate import ValidationReport, validate

from networks import NETWORKS

# The networks by name: how to build each, and the shape of its images (channels, height, width).
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "digits": (load_pretrained, (1, 8, 8)),
    **{name: (build, (3, 224, 224)) for name, build in NETWORKS.items()},
}


def measure(name: str, backend: Backend, arguments: argparse.Namespace) -> tuple[ValidationReport, BenchmarkReport]:
    """Decompose a network on the host, then validate and time it on the device."""
    build, shape = MODELS[name]
    original = build()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    images: Tensor = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    dtypes = [getattr(torch, dtype) for dtype in arguments.dtypes]
    checked = validate(original, decomposed, images, backend, index=arguments.index, dtypes=dtypes)
    timed = benchmark(
        original,
        decomposed,
        images,
        backend,
        index=arguments.index,
        batch_sizes=arguments.batch_sizes,
        dtypes=dtypes,
        compiled=arguments.compiled,
        profile=arguments.profile,
        progress=lambda done, total, what: print(f"\r{name}: {done} of {total}, {what:30}", end="", file=sys.stderr),
    )
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    return checked, timed


# A row for each network, type and batch size.
COLUMNS = (
    Column("network"),
    Column("type"),
    Column("batch"),
    Column("device is"),
    Column("MACs left", "number"),
    Column("original ms", "number"),
    Column("decomposed ms", "number"),
    Column("speed-up", "number"),
    Column("verdict"),
    Column("layers faster / slower / neither / unknown"),
)


def summary(name: str, checked: ValidationReport, run: BenchmarkRun) -> tuple[str, ...]:
    """A row of the table."""
    speed = run.model.speed_up
    verdicts = [layer.verdict for layer in run.layers]
    return (
        name,
        f"{name_of(run.dtype)}{', compiled' if run.compiled else ''}",
        str(run.batch_size),
        "right" if checked.ok else "WRONG",
        f"{sum(layer.macs_after for layer in run.layers) / sum(layer.macs for layer in run.layers):.0%}",
        in_ms(run.model.before.median),
        in_ms(run.model.after.median),
        str(speed),
        f"{speed.verdict}{', host-bound' if run.profile and run.profile.host_bound else ''}",
        " / ".join(str(verdicts.count(kind)) for kind in ("faster", "slower", "no difference seen", "unknown")),
    )


def main() -> None:
    """Run the benchmark, and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cpu", help="cpu, cuda, npu, or one that is installed (default cpu)")
    parser.add_argument("--index", type=int, default=0, help="number of the device (default 0)")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], metavar="TYPE", help="default float32")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1], metavar="N", help="default 1")
    parser.add_argument("--networks", nargs="+", default=list(MODELS), choices=MODELS, help="default all")
    parser.add_argument("--compiled", action="store_true", help="also compiled (on an NPU in graph mode)")
    parser.add_argument("--profile", action="store_true", help="also record the device's kernels (cuda and npu)")
    parser.add_argument("--layers", action="store_true", help="print both reports of each network, layer by layer")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="save both reports of each network as JSON")
    arguments = parser.parse_args()
    for dtype in arguments.dtypes:
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            parser.error(f"--dtypes: {dtype!r} is not a type of torch: expected float32, float16, bfloat16, …")
    statuses: list[BackendStatus] = list_backends()
    print("\n".join(map(str, statuses)))
    try:
        backend = get_backend(arguments.backend)
        rows = []
        for name in arguments.networks:
            checked, timed = measure(name, backend, arguments)
            if arguments.layers:
                print(f"\n── {name} ──\n\n{checked.text(width=200)}\n\n{timed.text(width=200)}")
            if arguments.save:
                arguments.save.mkdir(parents=True, exist_ok=True)
                checked.save(arguments.save / f"{name}.validation.json")
                timed.save(arguments.save / f"{name}.benchmark.json")
            rows += [summary(name, checked, run) for run in timed.runs]
    except AmctError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    table = Table(f"{timed.device.name} ({timed.device.family})", COLUMNS, tuple(rows))
    print(f"\n{as_text([table], width=200)}")


if __name__ == "__main__":
    main()
