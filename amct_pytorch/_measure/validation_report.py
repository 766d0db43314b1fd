"""What `amct_pytorch.validate` found, as data, as tables, and as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from .._report.table import format_table
from .._report.units import name_of, save_json, settings_line
from ..backend import DeviceInfo, Tolerance


@dataclass(frozen=True)
class LayerValidation:
    """What was seen of one decomposed layer, on the inputs that reach it in the original model.

    Attributes
    ----------
    name
        The first name of the layer.
    mode, rank
        Kernel sizes in the row, and the channels between them.
    calls
        How often it ran.
    device_error, device_worst
        Of the row on the device against the same in float64 on the host: ‖y − r‖ / ‖r‖, and max|y − r| / max|r|.
    response_error
        Of the row against the original layer, both on the device: ‖y − r‖ / ‖r‖.
    verdict
        "right", "wrong: …", or "did not run".
    """

    name: str
    mode: str
    rank: int
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
        ‖y − r‖ / ‖r‖ of the outputs of the decomposed model against those of the original; None where they hold no
        floating-point tensors, or such of other shapes, as a detector's that depend on what it finds.
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
class ValidationReport:
    """What `validate` found; prints as tables.

    Attributes
    ----------
    device
        Where it ran.
    runs
        One `DtypeValidation` a floating-point type.
    """

    device: DeviceInfo
    runs: tuple[DtypeValidation, ...]

    @property
    def ok(self) -> bool:
        """Whether the device computed every decomposed layer that ran right."""
        return not any(layer.verdict.startswith("wrong") for run in self.runs for layer in run.layers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        save_json(self, "validation", path)

    def __str__(self) -> str:
        title = f"Validation on {self.device.name} ({self.device.family}), {settings_line(dict(self.device.versions))}"
        return "\n\n".join([title, *map(_run_as_text, self.runs)])


def _run_as_text(run: DtypeValidation) -> str:
    header = ["layer", "row", "rank", "device error", "at one place", "response error", "verdict"]
    rows = [
        [
            layer.name or "(the model)",
            layer.mode,
            str(layer.rank),
            f"{layer.device_error:.1e}",
            f"{layer.device_worst:.1e}",
            f"{layer.response_error:.3f}",
            layer.verdict,
        ]
        for layer in run.layers
    ]
    table = format_table(header, rows, right=header[2:6])
    lines = [
        f"{name_of(run.dtype)}: device errors up to {run.tolerance.norm:.1e} ({run.tolerance.worst:.1e} at one place) "
        f"pass as rounding; {settings_line(run.settings)}",
        table,
        _outputs_as_text(run),
    ]
    if run.fallbacks:
        lines.append(f"Run on the CPU, for lack of the device's own: {', '.join(run.fallbacks)}.")
    return "\n".join(lines)


def _outputs_as_text(run: DtypeValidation) -> str:
    if run.output_error is None:
        return "Outputs: no floating-point tensors of the same shapes to compare."
    agreement = "" if run.top1_agreement is None else f", top-1 agreement {run.top1_agreement:.2%}"
    return f"Outputs: relative error {run.output_error:.3f} against the original{agreement}."
