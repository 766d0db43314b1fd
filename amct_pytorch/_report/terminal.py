"""Reports on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from .table import Table
from .text import Line, lines_of, plain

# Styles of rich by the role of a part; see `Part`. Every verdict has a mark and words besides its colour.
_STYLES = {
    "title": "bold",
    "heading": "bold",
    "rule": "dim",
    "name": "cyan",
    "note": "",
    "good": "green",
    "bad": "bold red",
    "neutral": "dim",
}


def show(tables: Sequence[Table], stream: TextIO | None = None) -> None:
    """Print tables, one below the other: in colour on a terminal, if rich is installed, else as plain text.

    Parameters
    ----------
    tables
        What to print.
    stream
        Where to; None for the standard output. Characters that its encoding lacks are replaced by ASCII ones.
    """
    stream = sys.stdout if stream is None else stream
    lines = lines_of(tables, encoding=getattr(stream, "encoding", None))
    if not (stream.isatty() and _in_colour(lines, stream)):
        print("\n".join(map(plain, lines)), file=stream)


def _in_colour(lines: Sequence[Line], stream: TextIO) -> bool:
    """Print the lines in colour; False, and nothing is printed, if rich is missing."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return False
    console = Console(file=stream, highlight=False)
    for line in lines:
        text = Text.assemble(*((part.text, _STYLES.get(part.role, "")) for part in line))
        text.rstrip()
        console.print(text, soft_wrap=True)
    return True
