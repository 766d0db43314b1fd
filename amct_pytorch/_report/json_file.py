"""A report as a JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any

import torch

from .file import write_report
from .units import name_of


def save_json(report: Any, kind: str, path: str | os.PathLike[str], *, version: int = 1) -> None:
    """Write a report with everything in it, under a format and a version that say how to read it.

    Parameters
    ----------
    report
        A dataclass of strings, numbers, floating-point types, and dataclasses, lists, tuples and dicts of these.
        Numbers that are not finite become null, as JSON has none.
    kind
        What the format is called after ``amct_pytorch.``
    path
        Of the file; folders that are missing are made. It is in place only when it is complete: after an error there
        is the old file or none.
    version
        Of the format: another for each change that a reader must know of.

    Raises
    ------
    ConfigError
        The path is none.
    ReportAccessError
        The file cannot be written.
    """
    content = {"format": f"amct_pytorch.{kind}", "version": version, **_plain(report)}
    write_report(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return name_of(value) if isinstance(value, torch.dtype) else value
