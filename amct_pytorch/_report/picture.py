"""Draw figures with matplotlib."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, MissingExtra, quoted
from .figure import Axis, Figure
from .file import write_report

# Colours of Okabe and Ito, which can be distinguished with any colour vision; dark grey takes the place of black.
_COLOURS = ("#595959", "#e69f00", "#0072b2", "#009e73", "#d55e00", "#56b4e9", "#cc79a7")

# Markers of matplotlib, one for each colour.
_MARKERS = "xs^oDvP"

# Width and height in inches: of a single figure, and of each of several side by side.
_INCHES = (7.0, 4.2)
_INCHES_BESIDE = (4.5, 3.8)

# Entries beside each other in a legend below figures.
_COLUMNS_OF_LEGEND = 4


def save_picture(figures: Sequence[Figure], path: str | os.PathLike[str]) -> None:
    """Draw figures side by side. Series of the same name have one colour, and one entry in the legend.

    Parameters
    ----------
    figures
        One or more.
    path
        The file to write, in the format of its suffix, such as .png, .svg or .pdf; an existing one is replaced,
        missing folders are created.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    ConfigError
        The argument is not a path, or matplotlib has no format of its suffix.
    ReportAccessError
        The file cannot be written. An existing file is then unchanged.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise MissingExtra("a picture needs matplotlib: pip install matplotlib") from error
    width, height = _INCHES if len(figures) == 1 else (_INCHES_BESIDE[0] * len(figures), _INCHES_BESIDE[1])
    canvas = Canvas(figsize=(width, height), layout="constrained")
    ending = str(path).rpartition(".")[2].lower()
    formats = canvas.canvas.get_supported_filetypes()
    if ending not in formats:
        raise ConfigError(f"expected a path that ends in one of {', '.join(sorted(formats))}, found {quoted(path)}")
    styles: dict[str, dict[str, Any]] = {}
    for figure, axes in zip(figures, canvas.subplots(1, len(figures), squeeze=False)[0], strict=True):
        _draw(figure, axes, styles)
    _add_legend(canvas)
    content = io.BytesIO()
    canvas.savefig(content, format=ending, dpi=110)
    write_report(path, content.getvalue())


def _draw(figure: Figure, axes: Any, styles: dict[str, dict[str, Any]]) -> None:
    """Draw a figure into axes of matplotlib.

    Parameters
    ----------
    figure
        The figure.
    axes
        The `matplotlib.axes.Axes`.
    styles
        Colour and marker of each series drawn so far, by name; those of new series are added.
    """
    for level in figure.levels:
        axes.axhline(level.value, color="0.6", linestyle="--", linewidth=1, label=level.name)
    for series in figure.series:
        number = len(styles) % len(_COLOURS)
        style = styles.setdefault(series.name, {"color": _COLOURS[number], "marker": _MARKERS[number]})
        axes.plot(
            [x for x, _ in series.points], [y for _, y in series.points], label=series.name, markersize=5, **style
        )
    _scale(figure.x, axes.xaxis, axes.set_xscale, axes.set_xlim)
    _scale(figure.y, axes.yaxis, axes.set_yscale, axes.set_ylim)
    axes.set_title(figure.title)
    axes.grid(alpha=0.3)


def _add_legend(canvas: Any) -> None:
    """Of a single figure within it, where there is room; of several below them, for all."""
    entries: dict[str, Any] = {}
    for axes in canvas.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    if not entries:
        return
    if len(canvas.axes) == 1:
        canvas.axes[0].legend()
    else:
        canvas.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=_COLUMNS_OF_LEGEND)


def _scale(axis: Axis, drawn: Any, set_scale: Any, set_limits: Any) -> None:
    if axis.linear_below is not None:
        set_scale("symlog", linthresh=axis.linear_below)
    else:
        set_scale(axis.scale)
    if axis.limits is not None:
        set_limits(axis.limits)
    if axis.ticks:
        drawn.set_ticks([value for value, _ in axis.ticks], [text for _, text in axis.ticks])
        drawn.set_ticks([], minor=True)
    drawn.set_label_text(axis.label)
