"""What `amct_pytorch.benchmark` measured, as data, as tables, and as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from .._report.json_file import save_json
from .._report.report import Report
from .._report.table import Column, Table
from .._report.units import in_gib, in_ms, name_of, settings_line
from ..backend import DeviceInfo
from .timing import Comparison

WHOLE = "whole model"
"""What a forward pass of the model is called among its layers."""


@dataclass(frozen=True)
class LayerBenchmark:
    """What was measured of one decomposed layer.

    Attributes
    ----------
    name
        The first name of the layer.
    conv
        Its geometry, in words.
    mode, ranks
        Kernel sizes in the chain that replaces it, and the channels between them.
    calls
        How often it runs in a forward pass; the times are those of all its calls.
    parameters, parameters_after
        Numbers of weights and biases.
    macs, macs_after
        Multiply-accumulates in a forward pass.
    comparison
        Times of the original layer and of the chain, and the speed-up; None for a layer that did not run.
    """

    name: str
    conv: str
    mode: str
    ranks: tuple[int, ...]
    calls: int
    parameters: int
    parameters_after: int
    macs: int
    macs_after: int
    comparison: Comparison | None

    @property
    def verdict(self) -> str:
        """Whether the chain is "faster", "slower", or "no difference seen"; "did not run"."""
        return self.comparison.speed_up.verdict if self.comparison else "did not run"


@dataclass(frozen=True)
class BenchmarkRun:
    """What was measured in one floating-point type, at one batch size, eager or compiled.

    Attributes
    ----------
    dtype
        The type of weights and inputs.
    batch_size
        Samples in a forward pass; None for inputs without any.
    compiled
        Whether both models, and each of their layers, were compiled.
    settings
        Of the process while it was measured.
    layers
        One `LayerBenchmark` for every decomposed layer.
    model
        Times of a forward pass of the two models, and the speed-up.
    parameters, parameters_after
        Numbers of parameters of the two models.
    peak_memory, peak_memory_after
        Bytes on the device at the peak of a forward pass, parameters and buffers included; None when compiled.
    fallbacks
        Operators seen to run on the CPU for lack of the device's own, in this run or one before it.
    notes
        What was not measured as asked.
    """

    dtype: torch.dtype
    batch_size: int | None
    compiled: bool
    settings: dict[str, str]
    layers: tuple[LayerBenchmark, ...]
    model: Comparison
    parameters: int
    parameters_after: int
    peak_memory: int | None
    peak_memory_after: int | None
    fallbacks: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class BenchmarkReport(Report):
    """What `benchmark` measured; prints as tables.

    Attributes
    ----------
    device
        Where it ran.
    runs
        One `BenchmarkRun` for each type and batch size, eager and compiled apart.
    """

    device: DeviceInfo
    runs: tuple[BenchmarkRun, ...]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, with every single time.

        Parameters
        ----------
        path
            The file to write; an existing one is replaced, missing folders are created.

        Raises
        ------
        ConfigError
            The path is empty or invalid; `ConfigTypeError` if it is no path.
        ReportAccessError
            The file cannot be written. An existing file is then unchanged.
        """
        save_json(self, "benchmark", path, version=2)

    def tables(self) -> list[Table]:
        """The device, then a table for each run with a row for each layer and one for the whole model."""
        device = self.device
        title = Table(f"Benchmark on {device.name} ({device.family}), {settings_line(dict(device.versions))}")
        return [title, *(_table(run, device) for run in self.runs)]


# Where there is little room, what was measured is kept.
_COLUMNS = (
    Column("layer", "name"),
    Column("Conv2d", priority=1),
    Column("chain", priority=0),
    Column("rank", "number", priority=3),
    Column("MACs left", "number", priority=2),
    Column("original", "number", priority=4),
    Column("decomposed", "number", priority=5),
    Column("speed-up", "number", priority=7),
    Column("verdict", "prose", priority=6),
)


def _table(run: BenchmarkRun, device: DeviceInfo) -> Table:
    title = f"{name_of(run.dtype)}{' (emulated)' if run.dtype in device.emulated else ''}"
    if run.batch_size is not None:
        title += f", batch {run.batch_size}"
    title += f", {'compiled' if run.compiled else 'eager'}: {settings_line(run.settings)}"
    rows = [(*_layer_cells(layer), *_comparison_cells(layer.comparison), layer.verdict) for layer in run.layers]
    rows.append((WHOLE, "", "", "", "", *_comparison_cells(run.model), run.model.speed_up.verdict))
    sizes = f"Parameters: {run.parameters:,} → {run.parameters_after:,}."
    if run.peak_memory is not None and run.peak_memory_after is not None:
        sizes += f" Peak memory: {in_gib(run.peak_memory)} → {in_gib(run.peak_memory_after)}."
    notes = [
        "Times: median milliseconds per forward pass, ± half the interquartile range. "
        "Speed-up: median of paired ratios [99 % interval].",
        sizes,
    ]
    if run.fallbacks:
        notes.append(f"Run on the CPU, for lack of the device's own: {', '.join(run.fallbacks)}.")
    notes += [f"{note[0].upper()}{note[1:]}" for note in run.notes]
    return Table(title, _COLUMNS, tuple(rows), tuple(notes))


def _layer_cells(layer: LayerBenchmark) -> tuple[str, ...]:
    share = f"{layer.macs_after / layer.macs:.0%}" if layer.macs else ""
    return layer.name or "(the model)", layer.conv, layer.mode, ", ".join(map(str, layer.ranks)), share


def _comparison_cells(comparison: Comparison | None) -> tuple[str, ...]:
    if comparison is None:
        return "", "", ""
    times = (
        f"{in_ms(timing.median)} ± {in_ms((timing.upper_quartile - timing.lower_quartile) / 2)}"
        for timing in (comparison.before, comparison.after)
    )
    return *times, str(comparison.speed_up)
