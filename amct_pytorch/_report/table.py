"""Plain-text tables for reports."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


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
