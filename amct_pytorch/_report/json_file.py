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
    """Write all fields of a report, with the name and the version of the format.

    Parameters
    ----------
    report
        A dataclass of strings, numbers, floating-point types, and dataclasses, lists, tuples and dicts of these.
        NaN and infinities become null, as JSON cannot express them.
    kind
        The format's name is ``amct_pytorch.`` followed by this.
    path
        The file to write; an existing one is replaced, missing folders are created.
    version
        Version of the format, increased with every change that a reader must know of.

    Raises
    ------
    ConfigError
        The path is empty or invalid; `ConfigTypeError` if it is no path.
    ReportAccessError
        The file cannot be written. An existing file is then unchanged.
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
