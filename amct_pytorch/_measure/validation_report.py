"""What `amct_pytorch.validate` found, as data, as tables, and as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from .._report.json_file import save_json
from .._report.report import Report
from .._report.table import Column, Table
from .._report.units import name_of, settings_line
from ..backend import DeviceInfo, Tolerance


@dataclass(frozen=True)
class LayerValidation:
    """What was seen of one decomposed layer, on the inputs that reach it in the original model.

    Attributes
    ----------
    name
        The first name of the layer.
    mode, ranks
        Kernel sizes in the chain that replaces it, and the channels between them.
    calls
        How often it ran.
    device_error, device_worst
        Of the chain on the device, compared with the same in float64 on the host: ‖y − r‖ / ‖r‖, and
        max|y − r| / max|r|.
    response_error
        Of the chain compared with the original layer, both on the device: ‖y − r‖ / ‖r‖.
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
    """What was seen in one floating-point type.

    Attributes
    ----------
    dtype
        The type of weights and inputs.
    tolerance
        Of the device in this type.
    settings
        Of the process while it was measured.
    layers
        One `LayerValidation` for every decomposed layer.
    output_error
        ‖y − r‖ / ‖r‖ of the outputs of the decomposed model compared with those of the original; None where they
        have no floating-point tensors, or where shapes differ, as a detector's do with what it finds.
    top1_agreement
        Share of samples for which the two have the same largest output; None where these are no (N, classes) scores.
    fallbacks
        Operators seen to run on the CPU for lack of the device's own, in this type or one before it.
    """

    dtype: torch.dtype
    tolerance: Tolerance
    settings: dict[str, str]
    layers: tuple[LayerValidation, ...]
    output_error: float | None
    top1_agreement: float | None
    fallbacks: tuple[str, ...]


@dataclass(frozen=True)
class ValidationReport(Report):
    """What `validate` found; prints as tables.

    Attributes
    ----------
    device
        Where it ran.
    runs
        One `DtypeValidation` for each floating-point type.
    """

    device: DeviceInfo
    runs: tuple[DtypeValidation, ...]

    @property
    def ok(self) -> bool:
        """Whether the device computed every decomposed layer that ran right."""
        return not any(layer.verdict.startswith("wrong") for run in self.runs for layer in run.layers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON.

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
        save_json(self, "validation", path, version=2)

    def tables(self) -> list[Table]:
        """The device, then a table for each floating-point type with a row for each layer."""
        device = self.device
        title = Table(f"Validation on {device.name} ({device.family}), {settings_line(dict(device.versions))}")
        return [title, *map(_table, self.runs)]


_COLUMNS = (
    Column("layer", "name"),
    Column("chain", priority=0),
    Column("rank", "number", priority=1),
    Column("device error", "number", priority=4),
    Column("at one place", "number", priority=2),
    Column("response error", "number", priority=3),
    Column("verdict", "prose", priority=5),
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
            layer.verdict,
        )
        for layer in run.layers
    ]
    title = (
        f"{name_of(run.dtype)}: device errors up to {run.tolerance.norm:.1e} ({run.tolerance.worst:.1e} at one place) "
        f"pass as rounding; {settings_line(run.settings)}"
    )
    notes = [_outputs(run)]
    if run.fallbacks:
        notes.append(f"Run on the CPU, for lack of the device's own: {', '.join(run.fallbacks)}.")
    return Table(title, _COLUMNS, tuple(rows), tuple(notes))


def _outputs(run: DtypeValidation) -> str:
    if run.output_error is None:
        return "Outputs: no floating-point tensors of the same shapes to compare."
    agreement = "" if run.top1_agreement is None else f", top-1 agreement {run.top1_agreement:.2%}"
    return f"Outputs: relative error {run.output_error:.3f} compared with the original{agreement}."
