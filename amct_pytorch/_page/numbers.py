"""Numbers as text on the page."""

from __future__ import annotations


def short(count: float) -> str:
    """A number of parameters or operations, with three significant digits: "12.3 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            scaled = count / size
            return f"{scaled:.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"
    return f"{count:.0f}"


def share(part: float, whole: float) -> str:
    """What is left of a quantity: "33.1 %"; empty for nothing of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def change(before: float, after: float) -> str:
    """A relative change: "−66.9 %"; empty from nothing."""
    return f"{100 * (after - before) / before:+.1f} %".replace("-", "−") if before else ""


def signed(difference: float) -> str:
    """A difference with its sign: "−0.44"."""
    return f"{difference:+.3g}".replace("-", "−") if difference else "0"


def ranks(numbers: tuple[int, ...] | None) -> str:
    """The ranks of a split: "16, 32"; empty for none."""
    return ", ".join(f"{number:,}" for number in numbers or ())
