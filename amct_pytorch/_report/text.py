"""Tables as lines of text of a given width."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ..errors import ConfigError, quoted
from .characters import fitting, in_encoding, printable, width_of
from .marks import tone_of
from .table import Column, Table

_GAP = "  "  # between columns
_ELLIPSIS = "…"  # in place of the removed part of a cell

# Fewest characters to which a name or prose is shortened before a column is left out; also the narrowest table.
_SHORTEST = 20

# The same for a verdict: its mark and first word.
_SHORTEST_VERDICT = 10


@dataclass(frozen=True)
class Part:
    """A part of a line that looks the same throughout.

    Attributes
    ----------
    text
        What is printed, with the blanks that align it.
    role
        What it is: "title", "heading", "rule", "note", the kind of a cell (see `Column`), or of a verdict "good", "bad"
        or "neutral"; empty for the gap between cells.
    """

    text: str
    role: str = ""


Line = tuple[Part, ...]
"""The parts of a line, from left to right."""


def as_text(tables: Sequence[Table], width: int | None = None, encoding: str | None = None) -> str:
    """Tables as plain text, one below the other.

    Titles and notes are wrapped; an empty line follows a title that takes several. A row is always one line. If it does
    not fit, long names are shortened in the middle, then columns are left out by priority, and prose is shortened at
    its end if that keeps a column of higher priority. A note below the table lists the columns left out, and the width
    at which everything is shown.

    Parameters
    ----------
    tables
        The tables to print.
    width
        Characters in a line, 20 or more; a wide East Asian character counts as two. None for the environment variable
        COLUMNS if it is set, else the width of the terminal, else 80.
    encoding
        The encoding that the text must be possible in; characters that it lacks are replaced by ASCII ones. None for
        every character.

    Raises
    ------
    ConfigError
        The width is not a whole number, or is below 20.
    """
    return "\n".join(map(plain, lines_of(tables, width, encoding)))


def plain(line: Line) -> str:
    """The text of a line, without what its parts are.

    Parameters
    ----------
    line
        The line.
    """
    return "".join(part.text for part in line).rstrip()


def lines_of(tables: Sequence[Table], width: int | None = None, encoding: str | None = None) -> list[Line]:
    """The lines of tables, one below the other, with an empty line between two; see `as_text`."""
    if width is None:
        width = max(shutil.get_terminal_size().columns, _SHORTEST)
    if isinstance(width, bool) or not isinstance(width, int) or width < _SHORTEST:
        raise ConfigError(f"width: expected a whole number of {_SHORTEST} or more, found {quoted(width)}")
    lines: list[Line] = []
    for number, table in enumerate(tables):
        lines += [()] * (number > 0) + _lines(_in_encoding(table, encoding), width, encoding)
    return lines


def _in_encoding(table: Table, encoding: str | None) -> Table:
    def written(text: str) -> str:
        return in_encoding(text, encoding)

    return Table(
        written(table.title),
        tuple(replace(column, heading=written(column.heading)) for column in table.columns),
        tuple(tuple(map(written, row)) for row in table.rows),
        tuple(map(written, table.notes)),
    )


def _lines(table: Table, width: int, encoding: str | None) -> list[Line]:
    lines = _wrapped(table.title, width, "title")
    notes = list(table.notes)
    if table.columns:
        lines += [()] * (len(lines) > 1)
        headings = [column.heading for column in table.columns]
        rows = [[printable(cell) for cell in row] for row in (headings, *table.rows)]
        natural = [max(map(width_of, cells)) for cells in zip(*rows, strict=True)]
        shown = _fitted(table.columns, natural, width)
        ellipsis, rule = in_encoding(_ELLIPSIS, encoding), in_encoding("─", encoding)
        head, *body = rows
        lines.append(_row(head, table.columns, shown, ellipsis, "heading"))
        lines.append((Part(_GAP.join(rule * size for size in shown.values()), "rule"),))
        lines += [_row(row, table.columns, shown, ellipsis) for row in body]
        if shown != dict(enumerate(natural)):
            left_out = ", ".join(heading for number, heading in enumerate(headings) if number not in shown)
            what = f"Left out to fit {width} characters: {left_out}" if left_out else f"Cut to fit {width} characters"
            notes.append(f"{what}. COLUMNS={_total(natural)} or text(width={_total(natural)}) shows everything.")
        if notes:
            lines.append(())
    for note in notes:
        lines += _wrapped(note, width, "note")
    return lines


def _fitted(columns: Sequence[Column], natural: Sequence[int], width: int) -> dict[int, int]:
    """The width of each column that is shown, by the number of the column."""
    shown = dict(enumerate(natural))
    names = [number for number, column in enumerate(columns) if column.kind == "name"]
    shown.update((number, min(natural[number], _SHORTEST)) for number in names)  # widened below
    shortest = {"prose": _SHORTEST, "verdict": _SHORTEST_VERDICT}
    for number in sorted(range(1, len(columns)), key=lambda number: (columns[number].priority, -number)):
        excess = _total(shown.values()) - width
        if excess <= 0:
            break
        least = shortest.get(columns[number].kind)
        if least is not None and shown[number] - excess >= least:
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


def _row(
    row: Sequence[str], columns: Sequence[Column], shown: dict[int, int], ellipsis: str, role: str | None = None
) -> Line:
    parts: list[Part] = []
    for number, size in shown.items():
        kind = columns[number].kind
        cell = _cut(row[number], size, ellipsis, in_the_middle=kind == "name")
        blank = " " * (size - width_of(cell))
        text = blank + cell if kind == "number" else cell + blank
        parts += [Part(_GAP)] * bool(parts)
        parts.append(Part(text, role or (tone_of(cell) if kind == "verdict" else kind)))
    return tuple(parts)


def _cut(cell: str, size: int, ellipsis: str, *, in_the_middle: bool) -> str:
    if width_of(cell) <= size:
        return cell
    room = size - width_of(ellipsis)
    # The end of a layer's name identifies it better than its beginning, which many layers share.
    end = 2 * room // 3 if in_the_middle else 0
    return cell[: fitting(cell, room - end)] + ellipsis + cell[len(cell) - fitting(cell[::-1], end) :]


def _wrapped(text: str, width: int, role: str) -> list[Line]:
    """The lines of a text, none longer than the width; what does not fit goes on with the indent of its line."""
    lines = []
    for line in map(printable, text.splitlines()):
        indent = " " * min(len(line) - len(line.lstrip()), width // 2)
        while width_of(line) > width:
            space = line.rfind(" ", len(indent) + 1, fitting(line, width + 1))
            end = space if space > 0 else fitting(line, width)
            lines.append(line[:end].rstrip())
            line = indent + line[end:].lstrip()
        lines.append(line)
    return [(Part(line, role),) for line in lines]
