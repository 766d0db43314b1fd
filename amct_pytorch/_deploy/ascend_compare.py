"""Compare the outputs of a device with the reference: python3 compare.py RESULTS REFERENCE.

Needs only Python 3.8 or later and NumPy. RESULTS is an output folder of ais_bench, whose file names end in the number
of the output (``image_0.npy``, or ``image_0.bin`` with raw values); REFERENCE has ``0_NAME.npy``, ``1_NAME.npy`` and so
on. The exit status is 0 if every output agrees, 1 if one differs, 2 if the files do not match.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np


def found_output(results: Path, number: int, reference: np.ndarray) -> np.ndarray:
    """The values of one output in float64, in the shape of the reference.

    Parameters
    ----------
    results
        Output folder of ais_bench.
    number
        Number of the output, from 0.
    reference
        The expected values of this output.

    Raises
    ------
    ValueError
        The folder does not have exactly one file of this output, or the file has another number of values.
    """
    files = [file for kind in ("npy", "bin") for file in sorted(results.glob(f"*_{number}.{kind}"))]
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"expected one file *_{number}.npy or *_{number}.bin in {results}, found {names}")
    (file,) = files
    if file.suffix == ".npy":
        values = np.load(file)
    else:
        # Raw values carry no type. With half as many bytes as a float32 reference they are float16.
        halves = file.stat().st_size * 2 == reference.nbytes and reference.dtype == np.float32
        values = np.fromfile(file, np.float16 if halves else reference.dtype)
    if values.size != reference.size:
        raise ValueError(f"expected {reference.shape} values in {file}, found {values.shape}")
    shaped: np.ndarray = values.reshape(reference.shape).astype(np.float64)
    return shaped


def compare(results: Path, reference: Path, tolerance: float) -> bool:
    """Print the differences of every output, and return whether all are within the tolerance.

    Parameters
    ----------
    results, reference
        Output folder of ais_bench, and folder of the expected outputs.
    tolerance
        Largest relative error ‖y − r‖ / ‖r‖ of an output y with reference r.

    Raises
    ------
    ValueError
        The files of the two folders do not match.
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
        right = error <= tolerance  # NaN compares as False
        agree = agree and right
        line = f"{file.stem}: max {difference.max():.3g}, mean {difference.mean():.3g}, relative {error:.3g}"
        if expected.ndim == 2 and expected.shape[1] > 1:
            line += f", top-1 agreement {float((found.argmax(1) == expected.argmax(1)).mean()):.2%}"
        print(line + (": agrees" if right else f": DIFFERS, expected a relative error of {tolerance:g} at most"))
    return agree


def main() -> int:
    """Compare the two folders named on the command line."""
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
