"""What reports of measurements have in common: how quantities read, and how a report is saved."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import torch


def save_json(report: Any, kind: str, path: str | os.PathLike[str]) -> None:
    """Write a dataclass with everything in it, under a format and a version that say how to read it.

    Numbers that are not finite become null, as JSON has none.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    content = {"format": f"amct_pytorch.{kind}", "version": 1, **_plain(report)}
    Path(path).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


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


def name_of(dtype: torch.dtype) -> str:
    """The float16 of torch.float16."""
    return str(dtype).removeprefix("torch.")


def ratio_of(part: float, whole: float) -> float:
    """The part of a whole; of nothing it is 0 where it is nothing itself, else infinite."""
    return part / whole if whole else (0.0 if part == 0 else math.inf)


def in_gib(size: int) -> str:
    """A number of bytes in GiB, or in MiB where that is little."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


def in_ms(seconds: float) -> str:
    """A time in milliseconds, to three significant digits."""
    milliseconds = seconds * 1e3
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def settings_line(settings: dict[str, str]) -> str:
    """All settings in a line."""
    return ", ".join(f"{key} {value}" for key, value in settings.items())
