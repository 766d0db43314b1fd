"""Reports that can be saved as JSON files."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any, ClassVar

import torch

from .file import write_report
from .report import Report
from .units import name_of


class JsonReport(Report):
    """A report that can be saved as JSON with all of its fields, but for those that are left out by name.

    A subclass is a dataclass of strings, numbers, floating-point types, and dataclasses, lists, tuples and dicts of
    these.
    """

    json_format: ClassVar[str]
    """Name of the format, the value of the key "format" in the file."""

    json_version: ClassVar[int] = 1
    """Version of the format, increased with every change that a reader must know of."""

    json_left_out: ClassVar[tuple[str, ...]] = ()
    """Names of fields that are not saved, as they have files of their own."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON. NaN and infinities become null, as JSON cannot express them.

        Parameters
        ----------
        path
            The file to write; an existing one is replaced, missing folders are created.

        Raises
        ------
        ConfigError
            The path is empty or invalid; `ConfigTypeError` if it is not a path.
        ReportAccessError
            The file cannot be written. An existing file is then unchanged.
        """
        fields = {name: value for name, value in _plain(self).items() if name not in self.json_left_out}
        content = {"format": self.json_format, "version": self.json_version, **fields}
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
