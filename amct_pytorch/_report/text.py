"""Tables as plain text of a given width."""

from __future__ import annotations

import bisect
import itertools
import shutil
import unicodedata
from collections.abc import Collection, Sequence

from ..errors import ConfigError, quoted
from .table import Column, Table

_GAP = "  "  # between columns
_ELLIPSIS = "…"  # in place of the removed part of a cell

# Fewest characters to which a name or prose is shortened before a column is left out; also the narrowest table.
_SHORTEST = 20


def as_text(tables: Sequence[Table], width: int | None = None) -> str:
    """Tables as plain text, one below the other.

    Titles and notes are wrapped. A row is always one line. If it does not fit, long names are shortened in the middle,
    then columns are left out by priority, and prose is shortened at its end if that keeps a column of higher priority.
    A note below the table lists the columns left out, and the width at which everything is shown.

    Parameters
    ----------
    tables
        The tables to print.
    width
        Characters in a line, 20 or more; a wide East Asian character counts as two. None for the environment variable
        COLUMNS if it is set, else the width of the terminal, else 80.

    Raises
    ------
    ConfigError
        The width is not a whole number, or is below 20.
    """
    if width is None:
        width = max(shutil.get_terminal_size().columns, _SHORTEST)
    if isinstance(width, bool) or not isinstance(width, int) or width < _SHORTEST:
        raise ConfigError(f"width: expected a whole number of {_SHORTEST} or more, found {quoted(width)}")
    return "\n\n".join("\n".join(_lines(table, width)) for table in tables)


def _lines(table: Table, width: int) -> list[str]:
    lines = _wrapped(table.title, width)
    notes = list(table.notes)
    if table.columns:
        headings = [column.heading for column in table.columns]
        rows = [[_printable(cell) for cell in row] for row in (headings, *table.rows)]
        natural = [max(map(_width_of, cells)) for cells in zip(*rows, strict=True)]
        shown = _fitted(table.columns, natural, width)
        head, *body = (_row(row, table.columns, shown) for row in rows)
        lines += [head, _GAP.join("─" * size for size in shown.values()), *body]
        if shown != dict(enumerate(natural)):
            left_out = ", ".join(heading for number, heading in enumerate(headings) if number not in shown)
            what = f"Left out to fit {width} characters: {left_out}" if left_out else f"Cut to fit {width} characters"
            notes.append(f"{what}. text(width={_total(natural)}) shows everything.")
        if notes:
            lines.append("")
    for note in notes:
        lines += _wrapped(note, width)
    return lines


def _fitted(columns: Sequence[Column], natural: Sequence[int], width: int) -> dict[int, int]:
    """The width of each column that is shown, by the number of the column."""
    shown = dict(enumerate(natural))
    names = [number for number, column in enumerate(columns) if column.kind == "name"]
    shown.update((number, min(natural[number], _SHORTEST)) for number in names)  # widened below
    for number in sorted(range(1, len(columns)), key=lambda number: (columns[number].priority, -number)):
        excess = _total(shown.values()) - width
        if excess <= 0:
            break
        if columns[number].kind == "prose" and shown[number] - excess >= _SHORTEST:
            shown[number] -= excess
        else:
            del shown[number]
    shown[0] = min(shown[0], width)
    for number in names:
        if number in shown:
            shown[number] = min(natural[number], shown[number] + width - _total(shown.values()))
    return shown


def _total(widths: Collection[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _row(row: Sequence[str], columns: Sequence[Column], shown: dict[int, int]) -> str:
    cells = []
    for number, size in shown.items():
        cell = _cut(row[number], size, in_the_middle=columns[number].kind == "name")
        blank = " " * (size - _width_of(cell))
        cells.append(blank + cell if columns[number].kind == "number" else cell + blank)
    return _GAP.join(cells).rstrip()


def _cut(cell: str, size: int, *, in_the_middle: bool) -> str:
    if _width_of(cell) <= size:
        return cell
    room = size - _width_of(_ELLIPSIS)
    # The end of a layer's name identifies it better than its beginning, which many layers share.
    end = 2 * room // 3 if in_the_middle else 0
    return cell[: _fitting(cell, room - end)] + _ELLIPSIS + cell[len(cell) - _fitting(cell[::-1], end) :]


def _wrapped(text: str, width: int) -> list[str]:
    lines = []
    for line in map(_printable, text.splitlines()):
        while _width_of(line) > width:
            space = line.rfind(" ", 1, _fitting(line, width + 1))
            end = space if space > 0 else _fitting(line, width)
            lines.append(line[:end].rstrip())
            line = line[end:].lstrip()
        lines.append(line)
    return lines


def _printable(text: str) -> str:
    """The text in one line, without control characters that would move the cursor of a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _fitting(text: str, room: int) -> int:
    """Number of leading characters of a text that fit into this many columns of a terminal."""
    return bisect.bisect_right(list(itertools.accumulate(map(_width_of, text))), room)


def _width_of(text: str) -> int:
    """Columns that the text takes in a terminal: two for a wide East Asian character."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
