"""Numbers as text on the page, where `amct_pytorch._report.units` has no text for them."""

from __future__ import annotations


def percent(share: float) -> str:
    """A share with a decimal: "33.1 %"."""
    return f"{100 * share:.1f} %"


def signed(difference: float) -> str:
    """A difference with its sign: "−0.44"."""
    return f"{difference:+.3g}".replace("-", "−") if difference else "0"


def ranks(numbers: tuple[int, ...] | None) -> str:
    """The ranks of a split: "16, 32"; empty for none."""
    return ", ".join(f"{number:,}" for number in numbers or ())
