"""How good a model is at its task, before and after: as data, as a table, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .json_file import JsonReport
from .table import Column, Table


@dataclass(frozen=True)
class ScoreReport(JsonReport):
    """The score of a model at its task; prints as a table.

    Attributes
    ----------
    metric
        What the score is: "top-1 accuracy".
    unit
        Its unit, such as "%"; empty for a score without one.
    before, after
        The score of the original, and of the decomposed model.
    fine_tuned
        The score of the decomposed model after fine-tuning; None where it was not fine-tuned.
    samples
        Number of samples that the scores are means over; None where that is not known.
    """

    json_format: ClassVar[str] = "amct_pytorch.scores"

    metric: str
    unit: str
    before: float
    after: float
    fine_tuned: float | None = None
    samples: int | None = None

    @property
    def final(self) -> float:
        """The score of what was made last: after fine-tuning, or else after the decomposition."""
        return self.after if self.fine_tuned is None else self.fine_tuned

    def tables(self) -> list[Table]:
        """A table with a row for each state of the model."""
        states = [("original", self.before), ("decomposed", self.after), ("fine-tuned", self.fine_tuned)]
        rows = [
            (name, f"{score:.6g}{self._in_unit}", "" if name == "original" else f"{score - self.before:+.3g}")
            for name, score in states
            if score is not None
        ]
        notes = () if self.samples is None else (f"On {self.samples:,} samples.",)
        return [Table("", (Column("model"), Column(self.metric, "number"), _CHANGE), tuple(rows), notes)]

    @property
    def _in_unit(self) -> str:
        return f" {self.unit}" if self.unit else ""


_CHANGE = Column("change", "number")
