"""The curves of fine-tuning runs: a CSV file for each, and a picture of some.

python tools/curves.py run/plain run/distilled --save curves.png
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from amct_pytorch._storage.atomic import write_file
from amct_pytorch.errors import MissingExtra

COLUMNS = ("epoch", "loss", "task", "logits", "responses", "accuracy", "original", "learning_rate", "seconds")
NAME = "curves.csv"


def write_csv(rows: Sequence[Mapping[str, float]], folder: Path) -> None:
    """Write the rows so far, in one step; what a row does not have is left empty."""
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
    """Draw test error and loss against the epoch, a line a run.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("to draw the curves needs matplotlib: pip install 'amct_pytorch[report]'") from error
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, rows in runs.items():
        left.plot([row["epoch"] for row in rows], [100 - row["accuracy"] for row in rows], marker=".", label=name)
        trained = [row for row in rows if "task" in row]
        right.plot([row["epoch"] for row in trained], [row["task"] for row in trained], marker=".", label=name)
    left.axhline(100 - next(iter(runs.values()))[0]["original"], color="grey", linestyle="--", label="original")
    left.set(xlabel="epoch", ylabel="test error / %", ylim=(0, 100))
    left.set_yscale("symlog", linthresh=0.5)  # near 0 it is linear, as an error may be 0
    right.set(xlabel="epoch", ylabel="training loss on the labels", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Draw the runs asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="FOLDER", help="output folders of tools/finetune.py")
    parser.add_argument("--save", type=Path, default=Path("curves.png"), metavar="FILE", help="default curves.png")
    arguments = parser.parse_args()
    try:
        draw({run.name: read_csv(run) for run in arguments.runs}, arguments.save)
    except (MissingExtra, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
