"""Draw the curves of several fine-tuning runs in one picture.

python tools/curves.py run/plain run/distilled --save curves.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from amct_pytorch._finetune.curves import draw, read_csv
from amct_pytorch.errors import AmctError


def main() -> None:
    """Draw the runs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="FOLDER", help="of amct-decompose finetune")
    parser.add_argument("--save", type=Path, default=Path("curves.png"), metavar="FILE", help="default curves.png")
    arguments = parser.parse_args()
    try:
        draw({run.name: read_csv(run / "curves.csv") for run in arguments.runs}, arguments.save)
    except (AmctError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
