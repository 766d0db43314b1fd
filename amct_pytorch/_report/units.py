"""How quantities read in reports."""

from __future__ import annotations

import math

import torch


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
