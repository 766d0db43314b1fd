"""Reports on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from .table import Table
from .text import as_text


def show(tables: Sequence[Table], stream: TextIO | None = None) -> None:
    """Print tables, one below the other.

    Parameters
    ----------
    tables
        What to print.
    stream
        Where to; None for the standard output.
    """
    print(as_text(tables), file=stream or sys.stdout)
