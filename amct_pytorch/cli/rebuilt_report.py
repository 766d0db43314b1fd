"""What a rebuilt model is like: as data, as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from .._report.json_file import JsonReport
from .._report.table import Column, Table
from .._run.inputs import run_model, tensors_of
from .._run.tensors import is_finite


@dataclass(frozen=True)
class RebuiltReport(JsonReport):
    """What was rebuilt; prints as a table.

    Attributes
    ----------
    layers
        Names of the new layers by the name of the layer that they replace.
    parameters, parameters_after
        Numbers of parameters of the original and of the decomposed model.
    finite
        Whether its outputs are free of NaN and infinity; None where it was not run.
    """

    json_format: ClassVar[str] = "amct_pytorch.rebuilt"

    layers: dict[str, list[str]]
    parameters: int
    parameters_after: int
    finite: bool | None

    @classmethod
    def of(
        cls, original: nn.Module, rebuilt: nn.Module, changes: Mapping[str, list[str]], finite: bool | None
    ) -> RebuiltReport:
        """The report of a model and its rebuilt form.

        Parameters
        ----------
        original, rebuilt
            The two.
        changes
            As `decompose_network` returns them.
        finite
            See the attributes.
        """
        before, after = (sum(one.numel() for one in model.parameters()) for model in (original, rebuilt))
        return cls(dict(changes), before, after, finite)

    @property
    def ok(self) -> bool:
        """Whether its outputs are finite, as far as that is known."""
        return self.finite is not False

    def tables(self) -> list[Table]:
        """A table with a row for each layer that was replaced."""
        rows = tuple((name or "(the model)", ", ".join(new)) for name, new in self.layers.items())
        notes = [f"Parameters: {self.parameters:,} → {self.parameters_after:,}. The weights fit."]
        if self.finite is not None:
            notes.append("Its outputs are finite." if self.finite else "WRONG: its outputs hold NaN or infinity.")
        return [Table("", (Column("layer", "name"), Column("is now", "prose")), rows, tuple(notes))]


def outputs_are_finite(model: nn.Module, inputs: Any) -> bool:
    """Whether the outputs of a model have neither NaN nor infinity.

    Parameters
    ----------
    model
        The model, in eval mode.
    inputs
        What it is run on.

    Raises
    ------
    InputsError
        It fails on them.
    """
    with torch.no_grad():
        outputs = tensors_of(run_model(model, inputs, "--input"))
    return all(is_finite(output) for output in outputs if output.is_floating_point())
