"""Printing of what a verb hands back."""

from __future__ import annotations

import json
import math
from typing import Any

from .._report.terminal import show
from .options import GeneralOptions
from .result import Result


def print_result(result: Result, general: GeneralOptions) -> None:
    """Print the tables of a result, or with ``--json`` one object; with ``--quiet`` no tables.

    Parameters
    ----------
    result
        What the verb handed back.
    general
        The options that every verb has.
    """
    if general.json:
        print(json.dumps(_finite(result.content), indent=2, allow_nan=False))
    elif not general.quiet:
        show(result.tables)


def _finite(value: Any) -> Any:
    """Plain data with null in place of NaN and infinities, which JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
