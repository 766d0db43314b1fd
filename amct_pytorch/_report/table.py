"""A table as data: what is shown, not how."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
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


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """A table with aligned columns; the columns named in right are aligned to the right."""
    widths = [max(map(_width, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["─" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            _pad(cell, width, to_the_right=title in right)
            for cell, width, title in zip(line, widths, header, strict=True)
        ).rstrip()
        for line in lines
    )


def _pad(cell: str, width: int, *, to_the_right: bool) -> str:
    blank = " " * (width - _width(cell))
    return blank + cell if to_the_right else cell + blank


def _width(text: str) -> int:
    """Columns that a terminal gives the text: wide East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
