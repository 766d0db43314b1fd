"""`amct-decompose demo`: all that the library does, on a network that it brings along."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .._report.table import Column, Table
from .._report.terminal import show
from .options import GeneralOptions, OutputOptions
from .result import Result

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .._measure.benchmark_report import BenchmarkReport
    from .._report.scores import ScoreReport
    from ..tensor_decompose import DecompositionPlan, SearchResult

_FOLDER = "amct-demo"

_DROP = 1.0
"""Percentage points of accuracy that may be lost; of half as many, chance would decide on 450 test images."""

_IMAGES, _BATCH = 256, 32
"""Training images that the factors are fitted to, without their labels, and how many of them make a batch."""

_EVALUATIONS = 3
"""Networks that the search tries, the original included: few, so that the demo takes about a minute."""

_TIMED = 64
"""Images in a run that is timed."""

_STEPS = 5

_OWN_MODEL = (
    "The same for a model of your own, with functions in a file model.py of yours:",
    "  amct-decompose plan model.py:network -i 1x3x224x224",
    # Each line fits a terminal of 80 columns, so that it can be copied.
    "  amct-decompose search model.py:network -i 1x3x224x224 \\",
    "      --eval model.py:accuracy --drop 1 --calibration images -o out",
    "  amct-decompose bench model.py:network -i 8x3x224x224 --decomposed out",
)


def demo(output: OutputOptions, general: GeneralOptions) -> Result:
    """Decompose a small pretrained network on this machine, from plan to report. Nothing is downloaded.

    It takes about a minute, and writes to the folder amct-demo if no other is given.
    """
    from .._report.scores import ScoreReport
    from ..benchmark import benchmark
    from ..demo import accuracy, load_digits_tensors, load_pretrained
    from ..report import load_reports, save_report
    from ..tensor_decompose import plan_decomposition
    from ..validate import validate
    from .decomposition_files import apply_and_save
    from .output_folder import (
        BENCHMARK,
        DECOMPOSITION,
        INFO,
        REPORT,
        SCORES,
        SEARCH,
        VALIDATION,
        WEIGHTS,
        required_output,
    )

    named = Path(output.output or _FOLDER)
    folder = required_output(OutputOptions(str(named), output.force), DECOMPOSITION)
    train, _, images, labels = load_digits_tensors()
    original = load_pretrained()

    def score(model: nn.Module) -> float:
        return accuracy(model, images, labels)

    parameters = sum(parameter.numel() for parameter in original.parameters())
    _say(
        1,
        f"A network of six convolutions and {parameters:,} parameters reads handwritten digits: "
        f"{score(original):.2f} % of {len(images)} test images are right.",
        general,
    )
    plan = plan_decomposition(original, example_inputs=images[:1])
    _say(2, "Plan: the layers and ranks of AMCT's rule, from the weights alone.", general, plan.tables())
    _say(
        3,
        f"Search: the fewest multiply-accumulates (MACs) for at most {_DROP:g} point of accuracy, with factors fitted "
        f"to {_IMAGES} images without labels. Each network takes some seconds.",
        general,
    )
    found = _searched(original, score, train[:_IMAGES], images[:1], general)
    _show(found.tables(), general)
    scores = ScoreReport("top-1 accuracy", "%", found.original.score, found.chosen.score, samples=len(images))
    reports = {SEARCH: found, SCORES: scores}
    net = apply_and_save(copy.deepcopy(original), found.plan, folder, WEIGHTS, reports=reports)
    _check_rebuilt(net, images, folder)
    _say(4, f"Files: a network rebuilt from {INFO} and {WEIGHTS} gives the same outputs, bit for bit.", general)
    _say(5, f"This machine: both networks run in turn, {_TIMED} images at a time.", general)
    checked = validate(original, net, images[:_TIMED])
    timed = benchmark(original, net, images[:_TIMED])
    checked.save(folder / VALIDATION)
    timed.save(folder / BENCHMARK)
    save_report(folder / REPORT, load_reports(folder))
    content = {
        "format": "amct_pytorch.demo",
        "version": 1,
        "output": str(folder),
        "scores": scores.content(),
        "search": found.content(),
        "validation": checked.content(),
        "benchmark": timed.content(),
    }
    closing = Table(notes=(f"All of it, layer by layer: {named / REPORT}", "", *_OWN_MODEL))
    return Result([_summary(found.plan, scores, timed), closing], content, checked.ok)


def _searched(
    original: nn.Module, score: Callable[[nn.Module], float], train: Tensor, image: Tensor, general: GeneralOptions
) -> SearchResult:
    from ..tensor_decompose import Calibration, search_decomposition
    from .progress import progress_bar

    with progress_bar("search", general) as progress:
        return search_decomposition(
            original,
            score,
            drop=_DROP,
            calibration=Calibration(train.split(_BATCH), mode="whiten"),
            example_inputs=image,
            evaluations=_EVALUATIONS,
            progress=progress,
        )


def _check_rebuilt(net: nn.Module, images: Tensor, folder: Path) -> None:
    """Check that the decomposed network can be rebuilt from its files.

    Raises
    ------
    CheckpointError
        The rebuilt network gives other outputs.
    """
    import torch

    from ..demo import DigitsNet
    from ..errors import CheckpointError
    from ..tensor_decompose import decompose_network
    from .output_folder import INFO, WEIGHTS
    from .weights_file import load_weights

    rebuilt, _ = decompose_network(DigitsNet(), folder / INFO)
    load_weights(rebuilt, folder / WEIGHTS)
    with torch.no_grad():
        if not torch.equal(rebuilt.eval()(images), net(images)):
            raise CheckpointError(f"{folder}: the network rebuilt from {INFO} and {WEIGHTS} gives other outputs")


def _summary(plan: DecompositionPlan, scores: ScoreReport, timed: BenchmarkReport) -> Table:
    """The two networks side by side."""
    from .._report.units import in_ms

    before, after = (sum(getattr(layer, name) or 0 for layer in plan.layers) for name in ("macs", "macs_after"))
    times = timed.runs[0].model
    change = f"{scores.after - scores.before:+.2f} points"
    rows = (
        ("accuracy / %", f"{scores.before:.2f}", f"{scores.after:.2f}", change),
        ("MACs an image", f"{before:,}", f"{after:,}", f"{after / before:.1%}"),
        (
            "parameters",
            f"{plan.parameters:,}",
            f"{plan.parameters_after:,}",
            f"{plan.parameters_after / plan.parameters:.1%}",
        ),
        (f"ms, {_TIMED} images", in_ms(times.before.median), in_ms(times.after.median), str(times.speed_up)),
    )
    columns = (Column("digits network"), *(Column(text, "number") for text in ("original", "decomposed", "")))
    return Table("", columns, rows, tuple(_about_times(timed)))


def _about_times(timed: BenchmarkReport) -> Sequence[str]:
    """On what it was timed, what else ran meanwhile, and what the interval is."""
    run = timed.runs[0]
    where = f"Timed on {timed.device.name}"
    if hasattr(os, "getloadavg"):  # not on Windows
        where += f", load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    if run.model.doubt is None:
        return [f"{where}. Speed-up: median of paired ratios [99 % interval]."]
    return [
        f"{where}.",
        f"The speed-up is unknown: {run.model.doubt}, and 80 % are needed. Run it again without other programs.",
    ]


def _say(step: int, text: str, general: GeneralOptions, tables: Sequence[Table] = ()) -> None:
    _show([Table(f"{step} of {_STEPS}  {text}"), *tables], general)


def _show(tables: Sequence[Table], general: GeneralOptions) -> None:
    """Print what a step has found; with ``--json`` to stderr, see `session`."""
    if not general.quiet:
        show(tables)
        print(flush=True)
