"""Decompose one network by one adapter, in this process, and measure what comes of it; tools/peers.py starts it.

Prints nothing of its own, as peers print what they like, and writes the figures as JSON.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amct_pytorch._measure.timing import Comparison, compare
from amct_pytorch.backend import get_backend
from amct_pytorch.errors import AmctError
from amct_pytorch.export import export_onnx

from . import PEERS
from .task import Task
from judging import Case, case
from speed import own_peak


def figures(
    peer: str, network: str, share: float, images: int, to_judge: int, seed: int, timed: bool
) -> dict[str, Any]:
    """What a peer leaves of a network, and at what cost."""
    module, _, function = PEERS[peer].adapter.partition(":")
    adapter: Callable[[Task], nn.Module] = getattr(importlib.import_module(f"adapters.{module}"), function)
    judged = case(network, images, seed, to_judge)
    original = judged.load()
    task = Task(judged.load(), judged.batches, share)
    kept = Task(original, judged.batches, share)
    expected = judged.outputs(original)
    peak, begin = own_peak(), time.process_time()
    decomposed = adapter(task).eval()
    seconds, added = time.process_time() - begin, own_peak() - peak
    found = judged.outputs(decomposed)
    result: dict[str, Any] = {
        "score": judged.percent(found, expected),
        "original": judged.percent(expected, expected),
        "error": float((found - expected).norm() / expected.norm()),
        "macs": kept.macs(decomposed),
        "parameters": _parameters(decomposed) / _parameters(original),
        "seconds": seconds,
        "gib": added / 2**30,
    }
    if timed:
        result["eager"] = _timed(lambda: _calls(judged, original, decomposed))
        result["onnxruntime"] = _timed(lambda: _sessions(judged, original, decomposed))
    return result


def _parameters(network: nn.Module) -> int:
    """Numbers that the network keeps, in parameters and in the buffers that converters make of weights."""
    return sum(one.numel() for one in network.state_dict().values())


Calls = tuple[Callable[[], object], Callable[[], object]]
"""Of the original and of the decomposed network."""


def _calls(judged: Case, original: nn.Module, decomposed: nn.Module) -> Calls:
    image = judged.held_out[0][:1]
    return lambda: original(image), lambda: decomposed(image)


def _sessions(judged: Case, original: nn.Module, decomposed: nn.Module) -> Calls:
    import onnxruntime

    image = judged.held_out[0][:1]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    sessions = []
    with tempfile.TemporaryDirectory() as folder:
        for name, network in (("original", original), ("decomposed", decomposed)):
            file = Path(folder) / f"{name}.onnx"
            export_onnx(copy.deepcopy(network), image, file)
            sessions.append(onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"]))
    given = {sessions[0].get_inputs()[0].name: image.numpy()}
    before, after = sessions
    return lambda: before.run(None, given), lambda: after.run(None, given)


def _timed(calls: Callable[[], Calls]) -> dict[str, Any]:
    """Speed-up, with the share of the CPU that the process got; or why there is none."""
    backend = get_backend("cpu")
    try:
        with torch.no_grad():
            found: Comparison = compare(*calls(), backend=backend, device=torch.device("cpu"))
    except (AmctError, ImportError, RuntimeError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    speed = found.speed_up
    return {
        "verdict": speed.verdict,
        # Where the verdict is withheld, the medians are all there is.
        "ratio": speed.ratio if found.doubt is None else found.before.median / found.after.median,
        "low": speed.low,
        "high": speed.high,
        "milliseconds": 1e3 * found.after.median,
        "cpu_share": found.cpu_share,
        "doubt": found.doubt,
    }


def main() -> None:
    """Measure, and write the figures or the reason why there are none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("request", help="arguments of figures(), as JSON")
    parser.add_argument("answer", type=Path, help="the file to write")
    arguments = parser.parse_args()
    # One thread fixes the order of summation, and leaves times comparable on a shared machine.
    torch.set_num_threads(1)
    try:
        found = figures(**json.loads(arguments.request))
    except (Exception, SystemExit) as error:  # whatever a peer raises is a row of the table
        found = {"failed": f"{type(error).__name__}: {error}"}
    arguments.answer.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
