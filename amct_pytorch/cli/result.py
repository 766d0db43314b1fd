"""What a verb hands back: what is to be printed, as tables and as JSON, and whether it is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._report.table import Table


@dataclass(frozen=True)
class Result:
    """The result of a verb.

    Attributes
    ----------
    tables
        What is printed for people.
    content
        What is printed with ``--json``: plain data, one object.
    ok
        Whether every check passed; if not, the exit code is 1.
    """

    tables: Sequence[Table] = ()
    content: Mapping[str, Any] = field(default_factory=dict)
    ok: bool = True
