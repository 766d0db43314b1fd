"""Reports that can be saved as JSON files."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from .._storage.json_text import is_version
from .._storage.records import from_plain
from ..errors import quoted
from .file import write_report
from .report import Report
from .units import name_of

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


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
        write_report(path, (json.dumps(self.content(), indent=2, allow_nan=False) + "\n").encode())

    def content(self) -> dict[str, Any]:
        """What `save` writes, as plain data."""
        fields = {name: value for name, value in plain_data(self).items() if name not in self.json_left_out}
        return {"format": self.json_format, "version": self.json_version, **fields}

    @classmethod
    def of_content(
        cls, content: Mapping[str, Any], where: str, error: type[ValueError], given: Mapping[str, Any] | None = None
    ) -> Self:
        """The report that `content` was of, with everything in it checked.

        Parameters
        ----------
        content
            An object with the right "format"; the rest may be anything.
        where
            Its place, for messages: the name of the file.
        error
            What to raise where it is not what `save` writes.
        given
            Values of the fields in `json_left_out`.
        """
        version = content.get("version")
        if not is_version(version, (cls.json_version,)):
            raise error(
                f"{where}: expected version {cls.json_version} of {cls.json_format}, found {quoted(version)}: it was "
                "written by another release"
            )
        fields = {name: value for name, value in content.items() if name not in ("format", "version")}
        return from_plain(cls, fields, where, error, given, null_is_nan=True)


def plain_data(value: Any) -> Any:
    """A report as numbers, strings, lists and dicts of them, with None for NaN and infinities.

    Parameters
    ----------
    value
        What a `JsonReport` may hold.
    """
    if dataclasses.is_dataclass(value):
        return {field.name: plain_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return name_of(value) if isinstance(value, torch.dtype) else value
