"""A table as data: what is shown, not how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "word", "number", "prose"]


@dataclass(frozen=True)
class Column:
    """What a column of a table is.

    Attributes
    ----------
    heading
        Stands above it.
    kind
        Of its cells: a "name" is still recognised when its middle is missing, "prose" when its end is; a "word" or a
        "number" is shown whole, numbers aligned to the right.
    priority
        Where there is too little room, columns of the lowest priority are left out first; the first column never is.
    """

    heading: str
    kind: Kind = "word"
    priority: int = 0


@dataclass(frozen=True)
class Table:
    """A part of a report. Its cells are text as people read it; the numbers themselves are in the report.

    Attributes
    ----------
    title
        Stands above it; may be empty.
    columns
        A `Column` for each cell of a row; none for a part of a report that is text alone.
    rows
        Cells, one a column.
    notes
        Paragraphs that stand below it.
    """

    title: str = ""
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
