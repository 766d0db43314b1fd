"""What every report has in common: it says what it shows as tables, and others draw them."""

from __future__ import annotations

import abc

from .table import Table
from .text import as_text


class Report(abc.ABC):
    """Something that prints as tables."""

    @abc.abstractmethod
    def tables(self) -> list[Table]:
        """What the report shows, in the order in which it is read."""

    def text(self, width: int | None = None) -> str:
        """The report as plain text; printed, it is the same at the width of the terminal.

        Parameters
        ----------
        width
            Characters in a line, 20 or more; None for the width of the terminal (of the environment variable COLUMNS
            where it is set), or 80 where the output goes elsewhere. Columns of tables that do not fit are left out.

        Raises
        ------
        ConfigError
            The width is no whole number, or is below 20.
        """
        return as_text(self.tables(), width)

    def __str__(self) -> str:
        return self.text()
