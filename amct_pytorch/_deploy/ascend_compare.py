"""Compare what a device computed with the reference: python3 compare.py RESULTS REFERENCE.

Needs Python 3.8 or later and NumPy, nothing else. RESULTS is a folder of ais_bench, whose files end in the number of
the output (``image_0.npy``, or ``image_0.bin`` with raw values); REFERENCE has ``0_NAME.npy`` and so on. The exit
status is 0 where every output agrees, 1 where one differs, 2 where the files do not match.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np


def found_output(results: Path, number: int, reference: np.ndarray) -> np.ndarray:
    """The values of one output in float64, in the shape of the reference.

    Raises
    ------
    ValueError
        There is no file of this output, or more than one, or it has another number of values.
    """
    files = [file for kind in ("npy", "bin") for file in sorted(results.glob(f"*_{number}.{kind}"))]
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"expected one file *_{number}.npy or *_{number}.bin in {results}, found {names}")
    (file,) = files
    if file.suffix == ".npy":
        values = np.load(file)
    else:
        # Raw values do not tell their type: that of the reference, or float16 where there are half as many bytes.
        halves = file.stat().st_size * 2 == reference.nbytes and reference.dtype == np.float32
        values = np.fromfile(file, np.float16 if halves else reference.dtype)
    if values.size != reference.size:
        raise ValueError(f"expected {reference.shape} values in {file}, found {values.shape}")
    shaped: np.ndarray = values.reshape(reference.shape).astype(np.float64)
    return shaped


def compare(results: Path, reference: Path, tolerance: float) -> bool:
    """Print the differences of every output, and tell whether all are within the tolerance.

    Parameters
    ----------
    results, reference
        The folders.
    tolerance
        Largest ‖y − r‖ / ‖r‖ of an output y against its reference r.

    Raises
    ------
    ValueError
        The folders do not match.
    """
    files = sorted(reference.glob("*.npy"), key=lambda file: int(file.name.partition("_")[0]))
    if not files:
        raise ValueError(f"expected the reference as files 0_NAME.npy in {reference}, found none")
    agree = True
    for number, file in enumerate(files):
        expected = np.load(file)
        found = found_output(results, number, expected)
        expected = expected.astype(np.float64)
        difference = np.abs(found - expected)
        norm = math.sqrt(float(np.square(expected).sum()))
        error = math.sqrt(float(np.square(difference).sum())) / (norm or 1.0)
        right = error <= tolerance  # False for NaN
        agree = agree and right
        line = f"{file.stem}: max {difference.max():.3g}, mean {difference.mean():.3g}, relative {error:.3g}"
        if expected.ndim == 2 and expected.shape[1] > 1:
            line += f", top-1 agreement {float((found.argmax(1) == expected.argmax(1)).mean()):.2%}"
        print(line + (": agrees" if right else f": DIFFERS, expected a relative error of {tolerance:g} at most"))
    return agree


def main() -> int:
    """Compare the two folders that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="folder with what the device computed")
    parser.add_argument("reference", type=Path, help="folder with the reference, such as outputs/model")
    parser.add_argument("--tolerance", type=float, default=0.01, help="largest relative error (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        return 0 if compare(arguments.results, arguments.reference, arguments.tolerance) else 1
    except (OSError, ValueError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
