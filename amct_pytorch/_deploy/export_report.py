"""What `amct_pytorch.export` wrote and checked, as data, as a table, and as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._report.json_file import save_json
from .._report.report import Report
from .._report.table import Column, Table
from .._report.units import in_gib, settings_line

_TOLERANCE = 1e-4  # relative; what float32 rounds off, summed over a deep network


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an ONNX file.

    Attributes
    ----------
    name
        Its name in the file.
    dtype
        As onnxruntime writes it: "tensor(float)".
    shape
        Its sizes; a name such as "batch" where the size is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ExportCheck:
    """How far onnxruntime and PyTorch are apart on one set of inputs, r being what PyTorch gives.

    Attributes
    ----------
    shapes
        Of the inputs.
    max_difference, mean_difference
        Of |y − r| over all values of all outputs.
    relative_difference
        max|y − r| / max|r| of the output for which it is largest.
    """

    shapes: tuple[tuple[int, ...], ...]
    max_difference: float
    mean_difference: float
    relative_difference: float

    @property
    def ok(self) -> bool:
        """Whether the two agree to 1e-4 relative, which is rounding in float32; NaN does not."""
        return self.relative_difference <= _TOLERANCE


@dataclass(frozen=True)
class ExportReport(Report):
    """What `export_onnx` wrote and checked; prints as a table.

    Attributes
    ----------
    path
        The file.
    opset
        Its version of the ONNX operators.
    size
        Its bytes.
    inputs, outputs
        A `TensorInfo` for each.
    checks
        An `ExportCheck` for each set of input shapes that was run.
    versions
        Of torch and of the packages that took part.
    """

    path: str
    opset: int
    size: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    checks: tuple[ExportCheck, ...]
    versions: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether onnxruntime agreed with PyTorch on all inputs that were run."""
        return all(check.ok for check in self.checks)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON.

        Parameters
        ----------
        path
            Of the file; folders that are missing are made.

        Raises
        ------
        ConfigError
            The path is none.
        ReportAccessError
            The file cannot be written. After an error there is the old file or none.
        """
        save_json(self, "export", path)

    def tables(self) -> list[Table]:
        """A table with a row for each set of inputs that was run."""
        rows = tuple(
            (
                ", ".join("×".join(map(str, shape)) for shape in check.shapes),
                f"{check.max_difference:.1e}",
                f"{check.mean_difference:.1e}",
                f"{check.relative_difference:.1e}",
                "right" if check.ok else f"wrong: expected at most {_TOLERANCE:.0e} relative",
            )
            for check in self.checks
        )
        return [
            Table(
                f"{self.path}: opset {self.opset}, {in_gib(self.size)}, {settings_line(self.versions)}", _COLUMNS, rows
            )
        ]


_COLUMNS = (
    Column("inputs", "name"),
    Column("max difference", "number", priority=1),
    Column("mean difference", "number", priority=0),
    Column("relative", "number", priority=2),
    Column("onnxruntime is", "prose", priority=3),
)
