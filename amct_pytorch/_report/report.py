"""The base of every report: it states its content as tables, and renderers draw them."""

from __future__ import annotations

import abc
import sys

from .table import Table
from .text import as_text


class Report(abc.ABC):
    """A report, which prints as tables."""

    @abc.abstractmethod
    def tables(self) -> list[Table]:
        """The tables of the report, in reading order."""

    def text(self, width: int | None = None) -> str:
        """The report as plain text. ``print(report)`` prints it at the width of the terminal.

        Parameters
        ----------
        width
            Characters in a line, 20 or more. None for the environment variable COLUMNS if it is set, else the width of
            the terminal, else 80. Columns of tables that do not fit are left out.

        Raises
        ------
        ConfigError
            The width is not a whole number, or is below 20.
        """
        return as_text(self.tables(), width)

    def __str__(self) -> str:
        # What print writes to cannot be known here; an output that lacks a character would end the program.
        return as_text(self.tables(), encoding=getattr(sys.stdout, "encoding", None))
