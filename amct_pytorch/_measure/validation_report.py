"""The report of `amct_pytorch.validate`, as data, as tables, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .._report.json_file import JsonReport
from .._report.marks import marked
from .._report.table import Column, Table
from .._report.units import name_of, settings_line
from ..backend import DeviceInfo, Tolerance


@dataclass(frozen=True)
class LayerValidation:
    """Errors of one decomposed layer, on the inputs that reach its place in the original model.

    Attributes
    ----------
    name
        Name of the layer in the model; of a shared layer, the first.
    mode
        Kernel sizes of the chain that replaces it: "3×1, 1×3".
    ranks
        Numbers of channels between the layers of the chain.
    calls
        How often it ran in a forward pass.
    device_error, device_worst
        ‖y − r‖ / ‖r‖ and max|y − r| / max|r| of the chain's response y on the device, where the reference r is that of
        the same chain in float64 on the host.
    response_error
        ‖y − r‖ / ‖r‖ of the chain's response y, where r is the original layer's response; both on the device.
    verdict
        "right", "wrong: …", or "did not run".
    """

    name: str
    mode: str
    ranks: tuple[int, ...]
    calls: int
    device_error: float
    device_worst: float
    response_error: float
    verdict: str


@dataclass(frozen=True)
class DtypeValidation:
    """Results in one floating-point type.

    Attributes
    ----------
    dtype
        The type of weights and inputs.
    tolerance
        Largest errors of the device that count as rounding in this type.
    settings
        Settings of the process during the run that change results or speed, value by name.
    layers
        One `LayerValidation` for every decomposed layer.
    output_error
        ‖y − r‖ / ‖r‖ of the outputs y of the decomposed model, where r are those of the original. None if they have no
        floating-point tensors, or if shapes differ, as those of a detector do with the number of detections.
    top1_agreement
        Share of samples, from 0 to 1, for which both models have the same largest output; None unless exactly one
        output is (N, classes).
    fallbacks
        Operators that the device lacks and that ran on the CPU, in this type or an earlier one.
    notes
        What to know of results on this device.
    """

    dtype: torch.dtype
    tolerance: Tolerance
    settings: dict[str, str]
    layers: tuple[LayerValidation, ...]
    output_error: float | None
    top1_agreement: float | None
    fallbacks: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValidationReport(JsonReport):
    """What `validate` found; prints as tables.

    Attributes
    ----------
    device
        The device that was validated.
    runs
        One `DtypeValidation` for each floating-point type.
    """

    json_format: ClassVar[str] = "amct_pytorch.validation"
    json_version: ClassVar[int] = 3

    device: DeviceInfo
    runs: tuple[DtypeValidation, ...]

    @property
    def ok(self) -> bool:
        """Whether no decomposed layer has a wrong verdict; layers that did not run do not count."""
        return not any(layer.verdict.startswith("wrong") for run in self.runs for layer in run.layers)

    def tables(self) -> list[Table]:
        """The device, then a table for each floating-point type with a row for each layer."""
        device = self.device
        title = Table(f"Validation on {device.name} ({device.family}), {settings_line(dict(device.versions))}")
        return [title, *map(_table, self.runs)]


# In a narrow terminal the verdict and the device error are the last to be left out.
_COLUMNS = (
    Column("layer", "name"),
    Column("split", priority=0),
    Column("rank", "number", priority=1),
    Column("device error", "number", priority=4),
    Column("worst device error", "number", priority=2),
    Column("response error", "number", priority=3),
    Column("verdict", "verdict", priority=5),
)


def _table(run: DtypeValidation) -> Table:
    rows = [
        (
            layer.name or "(the model)",
            layer.mode,
            ", ".join(map(str, layer.ranks)),
            f"{layer.device_error:.1e}",
            f"{layer.device_worst:.1e}",
            f"{layer.response_error:.3f}",
            marked(layer.verdict),
        )
        for layer in run.layers
    ]
    title = (
        f"{name_of(run.dtype)}, tolerance {run.tolerance.norm:.1e} of the device error and {run.tolerance.worst:.1e} "
        f"of the worst: {settings_line(run.settings)}"
    )
    notes = [
        "Device error: of the decomposed layer on the device, compared with itself in float64 on the host; worst: of a "
        "single value. Response error: of the decomposed layer, compared with the original; both on the device.",
        _outputs(run),
    ]
    if run.fallbacks:
        notes.append(f"Run on the CPU, as the device lacks them: {', '.join(run.fallbacks)}.")
    return Table(title, _COLUMNS, tuple(rows), (*notes, *run.notes))


def _outputs(run: DtypeValidation) -> str:
    if run.output_error is None:
        return "Outputs: no floating-point tensors of the same shapes to compare."
    agreement = "" if run.top1_agreement is None else f", top-1 agreement {run.top1_agreement:.2%}"
    return f"Output error: {run.output_error:.3f} compared with the original{agreement}."
