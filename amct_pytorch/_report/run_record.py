"""How the files of an output folder came about: the command, and what it ran with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .json_file import JsonReport
from .table import Column, Table


@dataclass(frozen=True)
class RunRecord(JsonReport):
    """What was run; prints as a table.

    Attributes
    ----------
    command
        The command as it was typed, quoted for a shell.
    began
        When it began, in ISO 8601 with the offset to UTC: "2026-01-31T12:00:00+00:00".
    seconds
        How long it took.
    device
        What it ran on, in words: the name of the device.
    versions
        Version of Python, and of each library used, by name.
    """

    json_format: ClassVar[str] = "amct_pytorch.run"

    command: str
    began: str
    seconds: float
    device: str
    versions: dict[str, str]

    def tables(self) -> list[Table]:
        """A table with a row for each fact."""
        facts = {"command": self.command, "began": self.began, "seconds": f"{self.seconds:.1f}", "device": self.device}
        return [Table("", (Column("run", "name"), Column("", "prose")), tuple({**facts, **self.versions}.items()))]
