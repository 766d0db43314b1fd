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


def in_units(count: int) -> str:
    """A number with three significant digits and a decimal prefix: "36.9 k", "1.81 G"; below a thousand as it is.

    Parameters
    ----------
    count
        A number of parameters, MACs or the like, 0 or more.
    """
    value, prefix = float(count), ""
    for larger in ("k", "M", "G", "T", "P"):
        if float(f"{value:.3g}") < 1000:
            break
        value, prefix = value / 1000, larger
    if not prefix:
        return str(count)
    value = float(f"{value:.3g}")
    return f"{value:.{2 - (value >= 10) - (value >= 100)}f} {prefix}"


def change_in_percent(before: int, after: int) -> str:
    """The change of a number in percent, with its sign: "−61 %"; with a decimal below 1 % and above 99 %.

    Parameters
    ----------
    before, after
        Two numbers of the same quantity; where the first is 0 there is no change in percent, and the text is empty.
    """
    if before == 0:
        return ""
    change = 100 * (after - before) / before
    digits = 1 if change and (abs(change) < 0.95 or 99 < abs(change) < 100) else 0
    return f"{change:+.{digits}f} %".replace("-", "−") if change else "0 %"


def from_to(before: int, after: int) -> str:
    """A change of a number: "1.15 M → 404 k (−65 %)".

    Parameters
    ----------
    before, after
        See `change_in_percent`.
    """
    change = change_in_percent(before, after)
    return f"{in_units(before)} → {in_units(after)}{f' ({change})' * bool(change)}"


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
