"""An exported file, made to fit ATC's parser and checked by its rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .._report.table import Column, Table
from .._report.units import in_gib
from ..errors import ExportError
from .atc_rewrites import rewritten
from .atc_rules import LARGEST_FILE, OPSETS, faults_of
from .onnx_graphs import nodes_of

# Faults that an error names; the others it counts.
_NAMED = 5


@dataclass(frozen=True)
class AtcCheck:
    """What was found in a file by the rules of ATC's parser, none of which it breaks.

    Attributes
    ----------
    file
        Name of the file.
    opset
        Version of the ONNX operators in it.
    operators
        How many nodes there are of each operator.
    size
        Size of the file in bytes.
    rewritten
        What was rewritten, in words; empty if the file is as torch has exported it.
    """

    file: str
    opset: int
    operators: dict[str, int]
    size: int
    rewritten: tuple[str, ...]

    def tables(self) -> list[Table]:
        """A table with a row for each rule."""
        rows = (
            ("opset", f"one domain, version {self.opset} of {OPSETS[0]} to {OPSETS[-1]}"),
            ("operators", f"{len(self.operators)} kinds, which ATC has in the forms used"),
            ("names", "of nodes, inputs and initialisers all different"),
            ("local functions", "none"),
            ("size", f"{in_gib(self.size)} of at most {in_gib(LARGEST_FILE)}"),
            ("rewritten", "; ".join(self.rewritten) or "nothing"),
        )
        columns = (Column("rule", "name"), Column("found", "prose"))
        return [Table(f"{self.file} by the rules of ATC's parser, read in its published sources", columns, rows)]


def fit_for_atc(file: Path) -> AtcCheck:
    """Rewrite a file where ATC needs other operators or names, and check that its parser takes it.

    Parameters
    ----------
    file
        An ONNX file at opset 18; replaced if anything has to be rewritten.

    Raises
    ------
    ExportError
        ATC would refuse the file, or compile it into something else; the message names operators, layers and remedies.
    OSError
        The file cannot be read or written.
    """
    import onnx

    model, notes = rewritten(onnx.load(file))
    if faults := list(dict.fromkeys(map(str, faults_of(model)))):
        more = f". And {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise ExportError(
            f"{file.name} is not what ATC's ONNX parser takes, by its published sources: "
            f"{'. '.join(faults[:_NAMED])}{more}"
        )
    if notes:
        onnx.save(model, file)
    operators = Counter(node.op_type for node in nodes_of(model))
    return AtcCheck(file.name, model.opset_import[0].version, dict(operators), file.stat().st_size, notes)
