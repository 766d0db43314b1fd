"""The report of `amct_pytorch.benchmark`, as data, as tables, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .._report.json_file import JsonReport
from .._report.marks import marked
from .._report.table import Column, Table
from .._report.units import change_in_percent, from_to, in_gib, in_ms, name_of, settings_line
from ..backend import DeviceInfo
from ..tensor_decompose.model.spec import common_kind
from .kernel_summary import KernelProfile
from .kernel_tables import kernel_table
from .timing import UNKNOWN, Comparison

WHOLE = "whole model"
"""Name of the row, and of the progress step, of the model's whole forward pass."""


@dataclass(frozen=True)
class LayerBenchmark:
    """Times and sizes of one decomposed layer.

    Attributes
    ----------
    name
        Name of the layer in the model; of a shared layer, the first.
    conv
        Its geometry as text: "64→128, 3×3".
    mode
        Kernel sizes of the chain that replaces it: "3×1, 1×3"; of a Linear layer the features: "64→16, 16→64".
    ranks
        Numbers of channels between the layers of the chain.
    calls
        How often it runs in a forward pass; the times are of all its calls together.
    parameters, parameters_after
        Numbers of weights and biases, of the original layer and of the chain.
    macs, macs_after
        Multiply-accumulate operations in a forward pass, of the original layer and of the chain.
    comparison
        Times of the original layer and of the chain, and the speed-up; None for a layer that did not run.
    kind
        What the layer is: "Linear", "Conv1d", "Conv2d" or "Conv3d".
    profile
        What the device did for the original layer and for the chain; None without a profile, or if the layer did not
        run.
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
    kind: str = "Conv2d"
    profile: KernelProfile | None = None

    @property
    def verdict(self) -> str:
        """The verdict on the chain: "faster", "slower", "no difference seen", "unknown", or "did not run"."""
        return self.comparison.speed_up.verdict if self.comparison else "did not run"


@dataclass(frozen=True)
class BenchmarkRun:
    """Results in one floating-point type, at one batch size, eager or compiled.

    Attributes
    ----------
    dtype
        The type of weights and inputs.
    batch_size
        Number of samples in a forward pass; None if no input tensor has an axis.
    compiled
        Whether both models, and each of their layers, were compiled.
    settings
        Settings of the process during the measurement that change results or speed, value by name.
    layers
        One `LayerBenchmark` for every decomposed layer.
    model
        Times of a forward pass of the two models, and the speed-up.
    parameters, parameters_after
        Numbers of parameters of the original and of the decomposed model.
    peak_memory, peak_memory_after
        Bytes on the device at the peak of a forward pass, parameters and buffers included; None for a compiled run.
    fallbacks
        Operators that the device lacks and that ran on the CPU, in this run or an earlier one.
    notes
        Differences from the requested measurement, such as a smaller batch, why verdicts are unknown, and what to know
        of times on this device.
    profile
        What the device did for the two models; None without a profile.
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
    profile: KernelProfile | None = None


@dataclass(frozen=True)
class BenchmarkReport(JsonReport):
    """What `benchmark` measured; prints as tables.

    Attributes
    ----------
    device
        The device that was measured.
    runs
        One `BenchmarkRun` for each type and batch size; eager and compiled runs are separate.
    """

    json_format: ClassVar[str] = "amct_pytorch.benchmark"
    json_version: ClassVar[int] = 4

    device: DeviceInfo
    runs: tuple[BenchmarkRun, ...]

    def tables(self) -> list[Table]:
        """The device, then a table for each run with a row for each layer and one for the whole model.

        A table of its kernels follows a run that was profiled.
        """
        device = self.device
        title = Table(f"Benchmark on {device.name} ({device.family}), {settings_line(dict(device.versions))}")
        return [title, *(table for run in self.runs for table in (_table(run, device), *_kernels(run)))]


# The name of a layer that is the model.
_UNNAMED = "(the model)"

_NAME = Column("layer", "name")
# In a narrow terminal the measured columns are the last to be left out. Between the name and these is the geometry.
_COLUMNS = (
    Column("split", priority=0),
    Column("rank", "number", priority=3),
    Column("MACs", "number", priority=2),
    Column("original", "number", priority=4),
    Column("decomposed", "number", priority=5),
    Column("speed-up", "number", priority=7),
    Column("verdict", "verdict", priority=6),
)


def _table(run: BenchmarkRun, device: DeviceInfo) -> Table:
    title = f"{name_of(run.dtype)}{' (emulated)' if run.dtype in device.emulated else ''}"
    if run.batch_size is not None:
        title += f", batch {run.batch_size}"
    load = _cpu_share(run)
    share = "" if load is None else f", CPU share {load:.0%}"
    title += f", {'compiled' if run.compiled else 'eager'}{share}: {settings_line(run.settings)}"
    kind = common_kind(layer.kind for layer in run.layers)
    columns = (_NAME, Column(kind or "geometry", priority=1), *_COLUMNS)
    rows = [
        (*_layer_cells(layer, kind), *_comparison_cells(layer.comparison), _verdict(layer.verdict, layer.profile))
        for layer in run.layers
    ]
    whole = _verdict(run.model.speed_up.verdict, run.profile)
    rows.append((WHOLE, "", "", "", "", *_comparison_cells(run.model), whole))
    sizes = f"Parameters: {from_to(run.parameters, run.parameters_after)}."
    if run.peak_memory is not None and run.peak_memory_after is not None:
        sizes += f" Peak memory: {in_gib(run.peak_memory)} → {in_gib(run.peak_memory_after)}."
    notes = [
        "Times: median milliseconds per forward pass, ± half the interquartile range. "
        "Speed-up: median of paired ratios [99 % interval]."
        + " CPU share: what the process got of the CPU time that it could use, the least of all measurements."
        * (load is not None),
        sizes,
    ]
    if run.fallbacks:
        notes.append(f"Run on the CPU, as the device lacks them: {', '.join(run.fallbacks)}.")
    notes += [f"{note[0].upper()}{note[1:]}" for note in run.notes]
    return Table(title, columns, tuple(rows), tuple(notes))


def _kernels(run: BenchmarkRun) -> list[Table]:
    profiles = [(layer.name or _UNNAMED, layer.profile) for layer in run.layers] + [(WHOLE, run.profile)]
    found = [(name, profile) for name, profile in profiles if profile is not None]
    return [kernel_table(found)] if found else []


def _verdict(verdict: str, profile: KernelProfile | None) -> str:
    # A process that did not get the CPU keeps the device waiting, but the program is not to blame.
    known = verdict != UNKNOWN
    return marked(f"{verdict}, host-bound" if known and profile is not None and profile.host_bound else verdict)


def _cpu_share(run: BenchmarkRun) -> float | None:
    """The least share of the CPU time that the process got in any measurement; None if it is not known."""
    found = [run.model, *(layer.comparison for layer in run.layers if layer.comparison is not None)]
    return min((one.cpu_share for one in found if one.cpu_share is not None), default=None)


def _layer_cells(layer: LayerBenchmark, kind: str) -> tuple[str, ...]:
    change = change_in_percent(layer.macs, layer.macs_after)
    geometry = layer.conv if kind else f"{layer.kind} {layer.conv}"
    return layer.name or _UNNAMED, geometry, layer.mode, ", ".join(map(str, layer.ranks)), change


def _comparison_cells(comparison: Comparison | None) -> tuple[str, ...]:
    if comparison is None:
        return "", "", ""
    times = (
        f"{in_ms(timing.median)} ± {in_ms((timing.upper_quartile - timing.lower_quartile) / 2)}"
        for timing in (comparison.before, comparison.after)
    )
    return *times, str(comparison.speed_up)
