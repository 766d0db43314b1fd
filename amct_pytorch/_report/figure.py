"""A figure as data: its content, not its appearance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Axis:
    """One of the two axes of a figure.

    Attributes
    ----------
    label
        The quantity, with its unit.
    scale
        "linear" or "log".
    linear_below
        Value below which a logarithmic axis is linear, so that it can show 0; None for a purely logarithmic one.
    limits
        Smallest and largest value shown; None for those of the data.
    ticks
        (value, text) of each tick; empty for automatic ticks.
    """

    label: str
    scale: Literal["linear", "log"] = "linear"
    linear_below: float | None = None
    limits: tuple[float, float] | None = None
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Series:
    """Points connected by a line.

    Attributes
    ----------
    name
        Label in the legend.
    points
        (x, y) of each point, in the order in which they are connected.
    """

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line to compare series with.

    Attributes
    ----------
    name
        Label in the legend.
    value
        The value of y.
    """

    name: str
    value: float


@dataclass(frozen=True)
class Figure:
    """A diagram of y against x.

    Attributes
    ----------
    x, y
        The two axes.
    series
        The lines.
    levels
        The dashed horizontal lines.
    title
        Shown above the figure; may be empty.
    """

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    title: str = ""
