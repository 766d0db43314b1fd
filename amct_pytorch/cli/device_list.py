"""The devices of this machine: as data, as a table, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._report.json_file import JsonReport
from .._report.table import Column, Table
from .._report.units import in_gib, name_of, settings_line
from ..backend import BackendStatus, DeviceInfo, get_backend, list_backends

_COLUMNS = (
    Column("backend"),
    Column("index", "number", priority=3),
    Column("device", "prose", priority=4),
    Column("family", priority=1),
    Column("memory", "number", priority=2),
    Column("types", "prose", priority=0),
)


@dataclass(frozen=True)
class DeviceList(JsonReport):
    """The devices that can be used here; prints as a table.

    Attributes
    ----------
    backends
        Every backend that is installed, with the reason where it cannot be used.
    devices
        The devices of those that can.
    """

    json_format: ClassVar[str] = "amct_pytorch.devices"

    backends: tuple[BackendStatus, ...]
    devices: tuple[DeviceInfo, ...]

    @classmethod
    def found(cls) -> DeviceList:
        """Those of this machine."""
        statuses = list_backends()
        usable = [get_backend(status.name) for status in statuses if status.available]
        return cls(tuple(statuses), tuple(info for backend in usable for info in backend.devices()))

    def tables(self) -> list[Table]:
        """A table with a row for each device; below it, why backends cannot be used, and versions."""
        rows = tuple(
            (
                info.backend,
                str(info.index),
                info.name,
                info.family,
                in_gib(info.total_memory),
                ", ".join(name_of(dtype) + (" (emulated)" if dtype in info.emulated else "") for dtype in info.dtypes),
            )
            for info in self.devices
        )
        notes = [f"{status.name} cannot be used: {status.reason}." for status in self.backends if not status.available]
        versions = {info.backend: f"{info.backend}: {settings_line(dict(info.versions))}." for info in self.devices}
        return [Table("", _COLUMNS, rows, (*notes, *versions.values()))]
