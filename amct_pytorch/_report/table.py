"""A table as data: its content, not its appearance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "word", "number", "prose", "verdict"]
"""Kind of the cells of a column; see `Column`."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    heading
        Shown above the column.
    kind
        Kind of its cells, which decides how they may be shortened: a "name" in its middle, "prose" and a "verdict" at
        the end, a "word" or a "number" not at all. Numbers are aligned to the right. A verdict begins with its mark;
        see `marked`.
    priority
        If the table is too wide, columns of the lowest priority are left out first; the first column never is.
    """

    heading: str
    kind: Kind = "word"
    priority: int = 0


@dataclass(frozen=True)
class Table:
    """A part of a report. Its cells are formatted text; the numbers themselves are in the report.

    Attributes
    ----------
    title
        Shown above the table; may be empty.
    columns
        A `Column` for each cell of a row; empty if this part of the report has text only.
    rows
        The cells of each row, one for each column.
    notes
        Paragraphs below the table.
    """

    title: str = ""
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
