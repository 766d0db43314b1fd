"""Compare decompositions by other packages with ours: what is left of a network at the same MACs, without fine-tuning.

All are given the same network, the same inputs without labels, and the same share of the multiply-accumulates of
convolutions and dense layers (AMCT's rule takes none, and has its own). Each runs in a process of its own, on one
thread, by the interpreter that has it, and is measured there: score and relative error of the outputs on images that
nothing was fitted to, MACs, parameters, CPU seconds, memory that decomposing added to the peak, and speed-up over the
original, in turn with it, in PyTorch and in onnxruntime, where a "?" marks times that the load of the machine spoils.
A peer that is missing or fails is a row with the reason.

    python tools/peers.py                                         # the digits network, with what is installed; minutes
    python tools/peers.py --networks ddddocr ddddocr-reader --shares 0.5 0.35 --results peers.json --picture peers.png
    python tools/peers.py --python aimet=../aimet/bin/python      # one that needs an interpreter of its own

Pretrained networks need the extra `real`, also in the other interpreters. VGG-16 and ResNets have random weights: they
are for times alone. With several seeds, the table has medians over as many draws of images, and the range of what
varies with them. Results in the file are not measured again, but for failures, so a comparison can be interrupted and
extended.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amct_pytorch._report.figure import Axis, Figure, Series
from amct_pytorch._report.picture import save_picture
from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch._storage.atomic import write_file

from adapters import PEERS
from judging import IMAGES, IMAGES_TO_JUDGE, NETWORKS
from networks import NETWORKS as RANDOM_NETWORKS

COLUMNS = (
    Column("decomposed by"),
    Column("MACs", "number"),
    Column("parameters", "number"),
    Column("score / %", "number"),
    Column("output error", "number"),
    Column("CPU s", "number"),
    Column("GiB", "number"),
    Column("PyTorch", "number"),
    Column("onnxruntime", "number"),
)

TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
"""Of errors in the picture."""

Result = Mapping[str, Any]
"""Figures of adapters/measured.py, or only "failed", the reason why there are none."""

Results = Mapping[tuple[str, float | None], Sequence[Result]]
"""By peer and share of the MACs, which is None for those that take none: one for each seed."""


def measured(python: str, request: Mapping[str, Any], minutes: float) -> Result:
    """The figures of one peer, from a process of its own.

    Parameters
    ----------
    python
        The interpreter that has the peer.
    request
        Arguments of `adapters.measured.figures`.
    minutes
        After so many it is stopped, and has failed.
    """
    tools = str(Path(__file__).resolve().parent)
    path = os.pathsep.join(filter(None, [tools, os.environ.get("PYTHONPATH")]))
    # Peers write into the working directory, and print what they like.
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [python, "-m", "adapters.measured", json.dumps(request), str(answer)]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60 * minutes,
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not ready after {minutes:g} minutes"}
        except OSError as error:
            return {"failed": f"{python} does not start: {error}"}
        if answer.exists():
            found: Result = json.loads(answer.read_text(encoding="utf-8"))
            return found
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return {"failed": f"ended with status {done.returncode}: {last}"}


def row(title: str, draws: Sequence[Result]) -> tuple[str, ...]:
    """A row of the table: medians over the draws of images, and the range of what varies with them."""
    found = [one for one in draws if "failed" not in one]
    if not found:
        return (title, *[""] * (len(COLUMNS) - 1))

    def typical(key: str, digits: int) -> str:
        return f"{statistics.median(one[key] for one in found):.{digits}f}"

    def ranged(key: str, digits: int) -> str:
        values = [one[key] for one in found]
        low, high = (f"{extreme(values):.{digits}f}" for extreme in (min, max))
        return low if low == high else f"{typical(key, digits)} [{low}, {high}]"

    return (
        title,
        typical("macs", 3),
        typical("parameters", 3),
        ranged("score", 2),
        ranged("error", 4),
        typical("seconds", 1),
        typical("gib", 2),
        speed_up(found[0].get("eager")),
        speed_up(found[0].get("onnxruntime")),
    )


def speed_up(found: Mapping[str, Any] | None) -> str:
    """Over the original, such as "1.52×"; with "?" if the machine was too busy to trust it."""
    if found is None or "failed" in found:
        return "–"
    return f"{found['ratio']:.2f}×{'?' if found['doubt'] else ''}"


def table(network: str, results: Results) -> Table:
    """Rows by share and peer, and below them why some have no figures."""
    ordered = sorted(results.items(), key=lambda one: (one[0][1] is not None, -(one[0][1] or 0)))
    rows, notes = [], []
    for (peer, share), draws in ordered:
        title = PEERS[peer].title + ("" if share is None else f", {share:g}")
        rows.append(row(title, draws))
        for result in draws:
            failed = {"": result, ", eager": result.get("eager", {}), ", onnxruntime": result.get("onnxruntime", {})}
            notes += [f"{title}{where}: {one['failed']}" for where, one in failed.items() if "failed" in one]
    found = [one for draws in results.values() for one in draws]
    originals = [one["original"] for one in found if "original" in one]
    shares = [one["eager"]["cpu_share"] for one in found if one.get("eager", {}).get("cpu_share")]
    if shares:
        notes.append(f"Share of the CPU that the timed processes got: {min(shares):.0%} to {max(shares):.0%}.")
    title = network + (f", whose original scores {statistics.median(originals):.2f} %" if originals else "")
    if network in RANDOM_NETWORKS:
        title = f"{network} with random weights, of which only times and MACs mean anything"
    return Table(title, COLUMNS, tuple(rows), tuple(dict.fromkeys(notes)))


def figure(network: str, results: Results) -> Figure:
    """Relative error of the outputs by MACs, medians over the draws of images, a line for each peer."""
    points: dict[str, list[tuple[float, float]]] = {}
    for (peer, _), draws in results.items():
        found = [one for one in draws if "failed" not in one]
        if found:
            macs, error = (statistics.median(one[key] for one in found) for key in ("macs", "error"))
            points.setdefault(PEERS[peer].title, []).append((macs, error))
    errors = [error for line in points.values() for _, error in line]
    ticks = [value for value in TICKS if min(errors, default=0) <= value <= max(errors, default=0)]
    return Figure(
        Axis("MACs, relative to the original"),
        Axis("relative error of the outputs", scale="log", ticks=tuple((value, f"{value:g}") for value in ticks)),
        tuple(Series(title, tuple(sorted(line))) for title, line in points.items()),
        title=network,
    )


def interpreters(given: Sequence[str]) -> dict[str, str]:
    """The interpreter of each peer, from texts such as "aimet=path/to/python"."""
    found = dict.fromkeys(PEERS, sys.executable)
    for one in given:
        peer, sign, path = one.partition("=")
        if not sign or peer not in PEERS:
            raise SystemExit(f"--python: expected PEER=PATH with a peer of {', '.join(PEERS)}, found {one!r}")
        # Not resolved: a virtual environment is known by the link to its interpreter.
        found[peer] = str(Path(path).absolute())
    return found


def compared(
    network: str, arguments: argparse.Namespace, pythons: Mapping[str, str], known: dict[str, Result]
) -> dict[tuple[str, float | None], list[Result]]:
    """The results of a network, measured where they are not known; those measured are added to what is known."""
    results: dict[tuple[str, float | None], list[Result]] = {}
    for peer in arguments.peers:
        for share in arguments.shares if PEERS[peer].chooses_macs else [None]:
            for seed in arguments.seeds:
                request = {
                    "peer": peer,
                    "network": network,
                    "share": 1.0 if share is None else share,
                    "images": arguments.images or IMAGES[network],
                    "to_judge": arguments.judge,
                    "seed": seed,
                }
                key, timed = json.dumps(request), not arguments.untimed and seed == arguments.seeds[0]
                there = known.get(key, {"failed": "not yet measured"})
                if "failed" in there or (timed and "eager" not in there):
                    known[key] = measured(pythons[peer], {**request, "timed": timed}, arguments.minutes)
                    if arguments.results:
                        write_file(arguments.results.resolve(), json.dumps(known, indent=1), OSError)
                results.setdefault((peer, share), []).append(known[key])
                line = (network, *row(PEERS[peer].title, [known[key]]), known[key].get("failed", ""))
                print(*line, file=sys.stderr, flush=True)
    return results


def main() -> None:
    """Compare, print a table for each network, and draw them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=(*NETWORKS, *RANDOM_NETWORKS), default=["digits"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5], help="of the MACs (default 0.5)")
    parser.add_argument("--python", nargs="+", default=[], metavar="PEER=PATH", help="interpreters other than this one")
    parser.add_argument("--images", type=int, help="to fit to (default by network)")
    parser.add_argument("--judge", type=int, default=IMAGES_TO_JUDGE, help="drawn images to judge by (default 16)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of the images; speed-ups are of the first (default 0)"
    )
    parser.add_argument("--untimed", action="store_true", help="measure no speed-ups")
    parser.add_argument("--minutes", type=float, default=30, help="that a peer may take for a network (default 30)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON to keep results in, and take them from")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="for the error of the outputs by MACs")
    arguments = parser.parse_args()
    pythons = interpreters(arguments.python)
    known: dict[str, Result] = {}
    if arguments.results and arguments.results.exists():
        known = json.loads(arguments.results.read_text(encoding="utf-8"))
    results = {network: compared(network, arguments, pythons, known) for network in arguments.networks}
    print(as_text([table(network, found) for network, found in results.items()], width=200))
    if arguments.picture:
        save_picture([figure(network, found) for network, found in results.items()], arguments.picture)


if __name__ == "__main__":
    main()
