"""The curves of fine-tuning runs: a CSV file for each run, and a picture of several."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .._report.figure import Axis, Figure, Level, Series
from .._report.file import write_report
from .._report.picture import save_picture

_COLUMNS = ("epoch", "loss", "task", "logits", "responses", "score", "original", "learning_rate", "seconds")
"""Of the CSV file. The losses are means over the epoch."""

Rows = Sequence[Mapping[str, float]]
"""The figures of each epoch, by name; the first are those before training."""


def write_csv(rows: Rows, path: Path) -> None:
    """Write the rows so far, replacing the file as a whole; missing values stay empty.

    Parameters
    ----------
    rows
        The rows.
    path
        The file.

    Raises
    ------
    ReportAccessError
        It cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_report(path, text.getvalue().encode())


def read_csv(path: Path) -> list[dict[str, float]]:
    """The rows that `write_csv` wrote.

    Parameters
    ----------
    path
        The file.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def draw(runs: Mapping[str, Rows], path: str | os.PathLike[str]) -> None:
    """Draw score, where it was measured, and training loss by epoch, a line for each run.

    Parameters
    ----------
    runs
        The rows of each run, by its name.
    path
        The picture to write.

    Raises
    ------
    MissingExtra, ConfigError, ReportAccessError
        See `save_picture`.
    """
    figures = [
        Figure(Axis("epoch"), Axis(label, scale="linear" if name == "score" else "log"), series, levels)
        for name, label in (("score", "score"), ("loss", "training loss"))
        if (series := _series(runs, name))
        for levels in [_original(runs) if name == "score" else ()]
    ]
    save_picture(figures, path)


def _series(runs: Mapping[str, Rows], name: str) -> tuple[Series, ...]:
    points = {run: tuple((row["epoch"], row[name]) for row in rows if name in row) for run, rows in runs.items()}
    return tuple(Series(run, found) for run, found in points.items() if found)


def _original(runs: Mapping[str, Rows]) -> tuple[Level, ...]:
    scores = [rows[0]["original"] for rows in runs.values() if "original" in rows[0]]
    return tuple(Level("original", score) for score in scores[:1])
