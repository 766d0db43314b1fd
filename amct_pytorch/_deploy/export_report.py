"""The report of `amct_pytorch.export`: what was written and checked, as data, as a table, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._report.json_file import JsonReport
from .._report.marks import marked
from .._report.table import Column, Table
from .._report.units import in_gib, settings_line

# Largest max|y − r| / max|r| that passes: rounding in float32, accumulated over a deep network.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an ONNX file.

    Attributes
    ----------
    name
        Its name in the file.
    dtype
        Its type in onnxruntime's notation: "tensor(float)".
    shape
        Its sizes; a dynamic size is given by name, such as "batch".
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ExportCheck:
    """How far the outputs y of onnxruntime are from the outputs r of PyTorch on one set of inputs.

    Attributes
    ----------
    shapes
        Shapes of the input tensors.
    max_difference, mean_difference
        Maximum and mean of |y − r| over all values of all outputs.
    relative_difference
        The largest max|y − r| / max|r| of any output.
    """

    shapes: tuple[tuple[int, ...], ...]
    max_difference: float
    mean_difference: float
    relative_difference: float

    @property
    def ok(self) -> bool:
        """Whether the relative difference is at most 1e-4, rounding in float32; False for NaN."""
        return self.relative_difference <= _TOLERANCE


@dataclass(frozen=True)
class ExportReport(JsonReport):
    """What `export_onnx` wrote and checked; prints as a table.

    Attributes
    ----------
    path
        Path of the file.
    opset
        Version of the ONNX operators in it.
    size
        Size of the file in bytes.
    inputs, outputs
        A `TensorInfo` for each.
    checks
        An `ExportCheck` for each set of input shapes that was run.
    versions
        Version of torch and of each package used, by name.
    exporter
        Which of torch's exporters made the file: "torch.export", or "TorchScript" where that failed. The latter names
        the weights as in the state dict, with "model." in front.
    """

    json_format: ClassVar[str] = "amct_pytorch.export"

    path: str
    opset: int
    size: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    checks: tuple[ExportCheck, ...]
    versions: dict[str, str]
    exporter: str

    @property
    def ok(self) -> bool:
        """Whether onnxruntime agreed with PyTorch on every set of inputs."""
        return all(check.ok for check in self.checks)

    def tables(self) -> list[Table]:
        """A table with a row for each set of inputs."""
        rows = tuple(
            (
                ", ".join("×".join(map(str, shape)) for shape in check.shapes),
                f"{check.max_difference:.1e}",
                f"{check.mean_difference:.1e}",
                f"{check.relative_difference:.1e}",
                marked("right" if check.ok else f"wrong: expected at most {_TOLERANCE:.0e} relative"),
            )
            for check in self.checks
        )
        return [
            Table(
                f"{self.path}: opset {self.opset}, {in_gib(self.size)}, made by {self.exporter}, "
                f"{settings_line(self.versions)}",
                _COLUMNS,
                rows,
            )
        ]


# In a narrow terminal the result and the relative difference are the last to be left out.
_COLUMNS = (
    Column("inputs", "name"),
    Column("max difference", "number", priority=1),
    Column("mean difference", "number", priority=0),
    Column("relative difference", "number", priority=2),
    Column("onnxruntime is", "verdict", priority=3),
)
