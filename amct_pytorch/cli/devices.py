"""`amct-decompose devices`."""

from __future__ import annotations

from .options import GeneralOptions
from .result import Result


def devices(general: GeneralOptions) -> Result:
    """List the devices that can be measured here, and why others cannot."""
    from .device_list import DeviceList

    found = DeviceList.found()
    return Result(found.tables(), found.content())
