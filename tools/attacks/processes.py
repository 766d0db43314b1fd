"""Processes: whatever one of a group does, the others end with an error in time, and nothing is written."""

from __future__ import annotations

import datetime
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from amct_pytorch.errors import AmctError
from amct_pytorch.tensor_decompose import DecompositionConfig, FixedRank, auto_decomposition

from .tally import Failure, Tally
from .victim import bits, calibration, differences, new_net, state_of

_PATIENCE = 5.0  # seconds that the library is asked to wait, far more than the work takes
_ALLOWED = 3 * _PATIENCE  # that waiting may take: at the start and at an exchange, and for the work itself

_OLD = "the old file"
_RIGHT = {("alike", 0), ("alike", 1), ("no room on the disk", 1)}  # process 0 alone writes

Role = Callable[[], dict[str, Any]]
"""Does what a process does before it decomposes, and returns the settings that it decomposes with."""


def attack_processes(folder: Path, count: int, draw: random.Random) -> Iterator[Tally]:
    """Let one of two processes misbehave in each way, each in turn.

    Parameters
    ----------
    folder
        An empty one to work in.
    count
        Number of groups of each kind.
    draw
        Chooses when a process is stopped or killed.
    """
    for name, make in _roles().items():
        tally = Tally(f"processes: {name}")
        for number in range(count):
            odd = number % 2  # the process that misbehaves
            tally.count(f"process {odd}", list(_failures(folder, odd, make(draw), right=(name, odd) in _RIGHT)))
        yield tally


def _roles() -> dict[str, Callable[[random.Random], Role]]:
    def signalled(number: signal.Signals) -> Callable[[random.Random], Role]:
        def make(draw: random.Random) -> Role:
            step = draw.randint(1, 2)

            def progress(done: int, total: int, name: str) -> None:
                if done >= min(step, total):
                    os.kill(os.getpid(), number)

            return lambda: {"progress": progress}

        return make

    def absent() -> dict[str, Any]:
        time.sleep(4 * _ALLOWED)
        os._exit(0)

    def dead() -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def no_room() -> dict[str, Any]:
        import amct_pytorch._storage.atomic as atomic

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        atomic.os.replace = full  # type: ignore[attr-defined]
        return {}

    return {
        "alike": lambda draw: dict,
        "one absent": lambda draw: absent,
        "one dead": lambda draw: dead,
        "one killed": signalled(signal.SIGKILL),
        "one stopped": signalled(signal.SIGSTOP),
        "other ranks": lambda draw: lambda: {"config": DecompositionConfig(rank=FixedRank(8))},
        "other calibration": lambda draw: lambda: {"calibration": calibration("refit")},
        "other weights": lambda draw: lambda: {"model": new_net(5)},
        "no model": lambda draw: lambda: {"model": None},
        "no room on the disk": lambda draw: no_room,
    }


def _failures(folder: Path, odd: int, role: Role, *, right: bool) -> Iterator[Failure]:
    file = folder / "info.json"
    file.write_text(_OLD)
    store = folder / "store"
    store.unlink(missing_ok=True)
    children = [_start(store, file, index, role if index == odd else dict) for index in range(2)]
    even_child, answers = children[1 - odd], children[1 - odd][1]
    even = _answer(even_child[0], answers, time.monotonic() + 4 * _ALLOWED)
    os.kill(children[odd][0], signal.SIGCONT)
    last = _answer(*children[odd], time.monotonic() + (_PATIENCE if even is not None else 0))
    if even is None:
        yield "wrong", "the other process ended without an answer, or not at all"
        return
    for answer in (even, last):
        if answer is None:
            continue  # it was absent or killed
        if answer["kind"] == "bare":
            yield "bare", answer["text"]
        elif right != (answer["kind"] == "done"):
            yield "wrong", f"{answer['kind']}: {answer['text']}"
        if answer["kind"] != "done" and answer["seconds"] > _ALLOWED:
            yield "wrong", f"waited {answer['seconds']:.1f} s"
        if answer["changed"]:
            yield "wrong", f"changed {answer['changed']} of the model"
    if right and even["weights"] != (last or even)["weights"]:
        yield "wrong", "the processes have other weights"
    if (file.read_text() == _OLD) == right:
        yield "wrong", "the file was written" if not right else "the file was not written"
    if left := [path.name for path in folder.iterdir() if path not in (file, store)]:
        killed = last is None  # by us, and the next one cleans up
        for name in left:
            (folder / name).unlink()
        if not killed:
            yield "litter", f"left {left}"


def _start(store: Path, file: Path, index: int, role: Role) -> tuple[int, int]:
    """The number of a new process of the group, and where its answer comes."""
    reads, writes = os.pipe()
    child = os.fork()
    if child:
        os.close(writes)
        return child, reads
    try:
        answer = _decompose(store, file, index, role)
        os.write(writes, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _decompose(store: Path, file: Path, index: int, role: Role) -> dict[str, Any]:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where torch.distributed tells of lost connections
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=2)
    settings = {"model": new_net(), "distributed": datetime.timedelta(seconds=_PATIENCE), **role()}
    net = settings.pop("model")
    before = None if net is None else state_of(net)
    begin, answer = time.monotonic(), {"kind": "done", "text": ""}
    try:
        auto_decomposition(net, file, **settings)
    except AmctError as error:
        answer = {"kind": "error", "text": f"{type(error).__name__}: {error}"}
    except BaseException as error:
        answer = {"kind": "bare", "text": f"{type(error).__name__}: {error}"}
    seconds = time.monotonic() - begin
    changed = differences(before, state_of(net)) if before is not None and answer["kind"] != "done" else []
    weights = hash(repr(bits(net.state_dict()))) if net is not None else 0
    return {**answer, "seconds": seconds, "changed": changed, "weights": weights}


def _answer(child: int, reads: int, until: float) -> dict[str, Any] | None:
    """The answer of a process, which is killed if it gives none in time; None if there is none."""
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.01)
    with os.fdopen(reads, "rb") as file:
        text = file.read()
    return json.loads(text) if text else None
