"""The curves of fine-tuning runs: a CSV file for each run, and a picture of several.

python tools/curves.py run/plain run/distilled --save curves.png
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from amct_pytorch._report.figure import Axis, Figure, Level, Series
from amct_pytorch._report.picture import save_picture
from amct_pytorch._storage.atomic import write_file
from amct_pytorch.errors import AmctError

# Columns of the CSV file: the losses are means over the epoch, the accuracies are in percent.
COLUMNS = ("epoch", "loss", "task", "logits", "responses", "accuracy", "original", "learning_rate", "seconds")
NAME = "curves.csv"  # in the output folder of a run


def write_csv(rows: Sequence[Mapping[str, float]], folder: Path) -> None:
    """Write the rows so far, replacing the file as a whole; missing values stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file((folder / NAME).resolve(), text.getvalue(), OSError)


def read_csv(folder: Path) -> list[dict[str, float]]:
    """The rows that `write_csv` wrote."""
    with (folder / NAME).open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def draw(runs: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw test error and loss by epoch, a line for each run.

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
    epoch = Axis("epoch")
    original = 100 - next(iter(runs.values()))[0]["original"]
    errors = {name: tuple((row["epoch"], 100 - row["accuracy"]) for row in rows) for name, rows in runs.items()}
    losses = {name: tuple((row["epoch"], row["task"]) for row in rows if "task" in row) for name, rows in runs.items()}
    figures = [
        Figure(
            epoch,
            Axis("test error / %", scale="log", linear_below=0.5, limits=(0, 100)),
            tuple(Series(name, points) for name, points in errors.items()),
            (Level("original", original),),
        ),
        Figure(
            epoch,
            Axis("training loss on the labels", scale="log"),
            tuple(Series(name, points) for name, points in losses.items()),
        ),
    ]
    save_picture(figures, path)


def main() -> None:
    """Draw the runs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="FOLDER", help="output folders of tools/finetune.py")
    parser.add_argument("--save", type=Path, default=Path("curves.png"), metavar="FILE", help="default curves.png")
    arguments = parser.parse_args()
    try:
        draw({run.name: read_csv(run) for run in arguments.runs}, arguments.save)
    except (AmctError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
