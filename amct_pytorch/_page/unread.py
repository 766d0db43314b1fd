"""A file of an output folder that could not be read."""

from __future__ import annotations

from dataclasses import dataclass

from .._report.report import Report
from .._report.table import Table


@dataclass(frozen=True)
class UnreadFile(Report):
    """A file that is no report, or not a whole one; prints as a line.

    Attributes
    ----------
    name
        Name of the file in its folder.
    why
        What was expected, and what was found.
    """

    name: str
    why: str

    def tables(self) -> list[Table]:
        """The name of the file, and why it could not be read."""
        return [Table(notes=(f"{self.name} could not be read: {self.why}",))]
