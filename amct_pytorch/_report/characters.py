"""Characters on a terminal: what can be printed, in which encoding, and how wide it is."""

from __future__ import annotations

import bisect
import itertools
import unicodedata

# What stands for a character of our reports where the encoding lacks it.
_IN_ASCII = {
    "×": "x",
    "→": "->",
    "−": "-",
    "–": "-",
    "─": "-",
    "…": "...",
    "±": "+-",
    "‖": "||",
    "·": ".",
    "≤": "<=",
    "≥": ">=",
    "✓": "+",
    "✗": "!",
    "▲": "^",
    "▼": "v",
}


def printable(text: str) -> str:
    """The text in one line, without control characters that would move the cursor of a terminal.

    Parameters
    ----------
    text
        Any text.
    """
    return "".join(char if char.isprintable() else " " for char in text)


def in_encoding(text: str, encoding: str | None) -> str:
    """The text, with an ASCII equivalent in place of each character that an encoding lacks, or "?" if there is none.

    Parameters
    ----------
    text
        Any text.
    encoding
        Name of the encoding, such as "utf-8" or "gbk"; None if it has every character.
    """
    if encoding is None or _has(encoding, text):
        return text
    return "".join(char if _has(encoding, char) else _IN_ASCII.get(char, "?") for char in text)


def width_of(text: str) -> int:
    """Columns that the text takes in a terminal: two for a wide East Asian character.

    Parameters
    ----------
    text
        Printable text.
    """
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def fitting(text: str, room: int) -> int:
    """Number of leading characters of a text that fit into a number of columns of a terminal.

    Parameters
    ----------
    text
        Printable text.
    room
        The columns.
    """
    return bisect.bisect_right(list(itertools.accumulate(map(width_of, text))), room)


def _has(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
