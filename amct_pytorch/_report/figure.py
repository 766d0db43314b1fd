"""A figure as data: what is drawn, not with which colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Axis:
    """One of the two axes of a figure.

    Attributes
    ----------
    label
        What it measures, with the unit.
    scale
        "linear" or "log".
    linear_below
        On a logarithmic axis, the value below which it is linear, so that 0 has a place; None for none.
    limits
        Its ends; None for those of the data.
    ticks
        Where it has ticks, and what is written there; none for those that suit the data.
    """

    label: str
    scale: Literal["linear", "log"] = "linear"
    linear_below: float | None = None
    limits: tuple[float, float] | None = None
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Series:
    """Points (x, y) that a line connects, in their order."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Level:
    """A value of y that series are compared with."""

    name: str
    value: float


@dataclass(frozen=True)
class Figure:
    """A diagram of y against x.

    Attributes
    ----------
    x, y
        An `Axis` each.
    series
        A `Series` for each thing that is drawn.
    levels
        A `Level` for each dashed line across the figure.
    title
        Stands above it; may be empty.
    """

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    title: str = ""
