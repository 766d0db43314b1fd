"""A figure as SVG that stands within an HTML page, whose style sheet gives it colours."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence

from ..figure import Axis, Figure, Series

_MARKS = ("circle", "diamond", "square", "triangle", "cross")
"""Shapes of the points of each series, so that they can be told apart without colour."""

_SIZE = (720.0, 360.0)
_SMALL = (220.0, 92.0)

# Room for tick labels on the left and below, for half of a label on the right, and for nothing above.
_MARGINS = (64.0, 46.0, 24.0, 12.0)
_NO_MARGINS = (1.0, 1.0, 1.0, 1.0)

# Height of a line of the legend.
_LINE = 20.0

_RADIUS = 4.5

# Ticks of an axis: on a logarithmic one at least so many, on a linear one at most.
_FEWEST_TICKS, _MOST_TICKS = 3, 6


class _Scale:
    """Where the values of an axis lie on the page."""

    def __init__(self, axis: Axis, values: Sequence[float], begin: float, end: float) -> None:
        self._axis = axis
        low, high = axis.limits or _widened(min(values), max(values), axis)
        self._first, self._last = self._on_scale(low), self._on_scale(high)
        self._begin, self._end = begin, end
        self.ticks = axis.ticks or _ticks(low, high, axis)

    def __call__(self, value: float) -> float:
        share = (self._on_scale(value) - self._first) / ((self._last - self._first) or 1.0)
        return self._begin + share * (self._end - self._begin)

    def _on_scale(self, value: float) -> float:
        if self._axis.linear_below is not None:
            return math.copysign(math.log1p(abs(value) / self._axis.linear_below), value)
        return math.log(value) if self._axis.scale == "log" else value


def drawing(figure: Figure, description: str = "", *, small: bool = False) -> str:
    """The figure as an element ``svg``.

    A level that is not finite is left out. Lines and points have the classes ``s0``, ``s1``, … by the name of their
    series, in the order of their first occurrence.

    Parameters
    ----------
    figure
        The figure.
    description
        Read out in place of the picture.
    small
        Whether to draw the lines alone, with neither axes, points nor legend.
    """
    levels = [level for level in figure.levels if math.isfinite(level.value)]
    width, height = _SMALL if small else _SIZE
    left, bottom, right, top = _NO_MARGINS if small else _MARGINS
    names = list(dict.fromkeys([series.name for series in figure.series]))
    legend = [] if small else [*names, *(level.name for level in levels)]
    top += _LINE * bool(legend)
    points = [point for series in figure.series for point in series.points]
    x = _Scale(figure.x, [point[0] for point in points], left, width - right)
    y = _Scale(figure.y, [*(point[1] for point in points), *(level.value for level in levels)], height - bottom, top)
    drawn = [] if small else [*_grid(figure, x, y, (left, top, width - right, height - bottom))]
    drawn += [
        f'<path class="level l{number}" d="M{left:g} {y(level.value):.1f}H{width - right:g}"/>'
        for number, level in enumerate(levels)
    ]
    for series in figure.series:
        number = names.index(series.name)
        drawn.append(_line(series, number, x, y))
        if not small:
            drawn += [_mark(number, x(one), y(other)) for one, other in series.points]
    if legend:
        drawn += _legend(names, [level.name for level in levels], left)
    label = f' role="img" aria-label="{html.escape(description)}"' if description else ' aria-hidden="true"'
    return f'<svg viewBox="0 0 {width:g} {height:g}"{label}>{"".join(drawn)}</svg>'


def _line(series: Series, number: int, x: _Scale, y: _Scale) -> str:
    path = "L".join(f"{x(one):.1f} {y(other):.1f}" for one, other in series.points)
    return f'<path class="line s{number}" d="M{path}"/>'


def _mark(number: int, x: float, y: float) -> str:
    shape, r = _MARKS[number % len(_MARKS)], _RADIUS
    if shape == "circle":
        return f'<circle class="mark s{number}" cx="{x:.1f}" cy="{y:.1f}" r="{r - 1:g}"/>'
    path = {
        "diamond": f"m0-{r + 3:g}l{r + 3:g} {r + 3:g}l-{r + 3:g} {r + 3:g}l-{r + 3:g}-{r + 3:g}z",
        "square": f"m-{r:g}-{r:g}h{2 * r:g}v{2 * r:g}h-{2 * r:g}z",
        "triangle": f"m0-{r:g}l{r:g} {2 * r:g}h-{2 * r:g}z",
        "cross": f"m-{r:g}-{r:g}l{2 * r:g} {2 * r:g}m0-{2 * r:g}l-{2 * r:g} {2 * r:g}",
    }[shape]
    return f'<path class="mark s{number}" d="M{x:.1f} {y:.1f}{path}"/>'


def _grid(figure: Figure, x: _Scale, y: _Scale, frame: tuple[float, float, float, float]) -> list[str]:
    left, top, right, bottom = frame
    drawn = []
    for value, text in x.ticks:
        drawn.append(f'<path class="grid" d="M{x(value):.1f} {top:g}V{bottom:g}"/>')
        drawn.append(f'<text class="x" x="{x(value):.1f}" y="{bottom + 17:g}">{html.escape(text)}</text>')
    for value, text in y.ticks:
        drawn.append(f'<path class="grid" d="M{left:g} {y(value):.1f}H{right:g}"/>')
        drawn.append(f'<text class="y" x="{left - 8:g}" y="{y(value) + 4:.1f}">{html.escape(text)}</text>')
    middle = (left + right) / 2
    drawn.append(f'<text class="x label" x="{middle:g}" y="{bottom + 38:g}">{html.escape(figure.x.label)}</text>')
    turned = f'transform="translate(14 {(top + bottom) / 2:g}) rotate(-90)"'
    drawn.append(f'<text class="x label" {turned}>{html.escape(figure.y.label)}</text>')
    return drawn


def _legend(names: Sequence[str], levels: Sequence[str], left: float) -> list[str]:
    drawn, at = [], left
    for number, name in enumerate([*names, *levels]):
        if number < len(names):
            drawn.append(_mark(number, at + 9, 10))
        else:
            drawn.append(f'<path class="level l{number - len(names)}" d="M{at:g} 10h18"/>')
        drawn.append(f'<text x="{at + 25:g}" y="14">{html.escape(name)}</text>')
        at += 45 + sum(13.0 if ord(char) > 0x2E7F else 7.2 for char in name)
    return drawn


def _widened(low: float, high: float, axis: Axis) -> tuple[float, float]:
    """The limits of an axis that shows these values with some room around them."""
    if axis.scale == "log" and axis.linear_below is None:
        room = max((high / low) ** 0.06, 1.02)
        return low / room, high * room
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, axis: Axis) -> tuple[tuple[float, str], ...]:
    """Round numbers between two limits, with as many decimals as the closest two differ by."""
    if axis.scale == "log" and low > 0:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in ((1,), (1, 2, 5), range(1, 10)):
            found = [digit * 10.0**power for power, digit in itertools.product(powers, digits)]
            within = [value for value in found if low <= value <= high]
            if len(within) >= _FEWEST_TICKS:
                break
        return tuple((value, f"{value:g}") for value in within)
    step = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= _MOST_TICKS)
    decimals = max(0, -math.floor(math.log10(step)))
    numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
    return tuple((number * step, f"{number * step:.{decimals}f}") for number in numbers)
