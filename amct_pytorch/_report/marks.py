"""Marks in front of verdicts, which say at a glance, and without colour, what is good and what is not."""

from __future__ import annotations

from typing import Literal

Tone = Literal["good", "bad", "neutral"]
"""Whether a verdict is what the user hopes for."""

_TONES: dict[str, Tone] = {"✓": "good", "▲": "good", "✗": "bad", "▼": "bad", "–": "neutral"}

# By the beginning of a verdict; whatever is not listed is neutral.
_MARKS = {
    "faster": "▲",
    "slower": "▼",
    "right": "✓",
    "wrong": "✗",
    "chosen": "✓",
    "accepted": "✓",
    "rejected": "✗",
}


def marked(verdict: str) -> str:
    """A verdict with its mark: "▲ faster". An empty one has none.

    Parameters
    ----------
    verdict
        One word, or several of which the first counts: "wrong: its response is not finite".
    """
    if not verdict:
        return ""
    return f"{next((mark for word, mark in _MARKS.items() if verdict.startswith(word)), '–')} {verdict}"


def marked_split(kernels: str) -> str:
    """What becomes of a layer, with its mark: "✓ 3×1, 1×3", or "– kept".

    Parameters
    ----------
    kernels
        Kernel sizes of the layers that replace it, in order; empty for a layer that is kept.
    """
    return f"✓ {kernels}" if kernels else "– kept"


def tone_of(cell: str) -> Tone:
    """Whether a marked verdict is good, by its mark.

    Parameters
    ----------
    cell
        What `marked` or `marked_split` returned.
    """
    return _TONES.get(cell[:1], "neutral")
