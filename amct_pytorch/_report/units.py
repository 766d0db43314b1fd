"""Quantities as text in reports."""

from __future__ import annotations

import math

import torch


def name_of(dtype: torch.dtype) -> str:
    """Name of a type without its module: "float16".

    Parameters
    ----------
    dtype
        The type: torch.float16.
    """
    return str(dtype).removeprefix("torch.")


def ratio_of(part: float, whole: float) -> float:
    """Ratio of two non-negative numbers; 0 for 0 / 0, infinite for any other division by 0.

    Parameters
    ----------
    part, whole
        Numerator and denominator.
    """
    return part / whole if whole else (0.0 if part == 0 else math.inf)


def in_gib(size: int) -> str:
    """A size in GiB, or in MiB if below half a GiB.

    Parameters
    ----------
    size
        Bytes.
    """
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


def in_ms(seconds: float) -> str:
    """A time in milliseconds, with three significant digits.

    Parameters
    ----------
    seconds
        The time.
    """
    milliseconds = seconds * 1e3
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def settings_line(settings: dict[str, str]) -> str:
    """All settings on one line.

    Parameters
    ----------
    settings
        Value by name.
    """
    return ", ".join(f"{key} {value}" for key, value in settings.items())
