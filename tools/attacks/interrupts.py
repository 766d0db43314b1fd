"""Interrupts: Ctrl-C at any moment, and everything is as it was before the call, or as after it."""

from __future__ import annotations

import functools
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

import amct_pytorch
from amct_pytorch.checkpoint import load_decomposed, save_decomposed
from amct_pytorch.tensor_decompose import (
    auto_decomposition,
    decompose_network,
    load_plan,
    plan_decomposition,
)

from .tally import Failure, Tally
from .victim import bits, calibration, differences, images, new_net, state_of, world

_LIBRARY = str(Path(amct_pytorch.__file__).parent)


@dataclass(frozen=True)
class Work:
    """A call to interrupt.

    Attributes
    ----------
    name
        For the table.
    prepare
        Makes the files that the call needs, in an empty folder.
    call
        The call, with a network and that folder.
    """

    name: str
    prepare: Callable[[Path], object]
    call: Callable[[nn.Module, Path], object]


def attack_interrupts(folder: Path, count: int, draw: random.Random) -> Iterator[Tally]:
    """Interrupt each call at random moments, and at random lines of the library.

    Parameters
    ----------
    folder
        An empty one to work in.
    count
        Number of interrupts of each kind for each call.
    draw
        Chooses the moments and lines.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for number, work in enumerate(_works()):
            for by in ("time", "line"):
                yield _interrupted(work, folder / f"{number}{by}", count, draw, by)
    finally:
        signal.signal(signal.SIGINT, before)


def _works() -> Iterator[Work]:
    original = new_net()
    decomposed, _ = auto_decomposition(new_net())
    plan = plan_decomposition(original)

    def nothing(folder: Path) -> None:
        pass

    def info(folder: Path) -> None:
        auto_decomposition(new_net(1), folder / "info.json")

    def old_file(folder: Path) -> None:
        (folder / "info.json").write_text("old")

    def old_checkpoint(folder: Path) -> None:
        save_decomposed(auto_decomposition(new_net(1))[0], folder / "checkpoint")

    def save_plan(folder: Path) -> None:
        plan.save(folder / "plan")

    def checkpoint(folder: Path) -> None:
        save_decomposed(decomposed, folder / "checkpoint")

    yield Work("plan", nothing, lambda net, folder: plan_decomposition(net, example_inputs=images()))
    for mode in ("whiten", "refit", "reconstruct"):
        yield Work(f"plan, {mode}", nothing, functools.partial(_calibrated, mode))
    yield Work("apply", old_file, lambda net, folder: plan.apply(net, folder / "info.json"))
    yield Work("auto_decomposition", nothing, lambda net, folder: auto_decomposition(net, folder / "new" / "info.json"))
    yield Work("decompose_network", info, lambda net, folder: decompose_network(net, folder / "info.json"))
    yield Work(
        "save_decomposed", old_checkpoint, lambda net, folder: save_decomposed(decomposed, folder / "checkpoint")
    )
    yield Work("load_decomposed", checkpoint, lambda net, folder: load_decomposed(net, folder / "checkpoint"))
    yield Work("plan.save", nothing, lambda net, folder: plan.save(folder / "plan"))
    yield Work("load_plan", save_plan, lambda net, folder: load_plan(folder / "plan"))


def _calibrated(mode: str, net: nn.Module, folder: Path) -> object:
    return plan_decomposition(net, calibration=calibration(mode))


def _interrupted(work: Work, folder: Path, count: int, draw: random.Random, by: str) -> Tally:
    tally = Tally(f"interrupt by {by}: {work.name}")
    net = _fresh(work, folder)
    files = _files(folder)
    if by == "line":
        lines = _Lines(0)
        with lines:
            work.call(net, folder)
        whole: float = lines.seen
    else:
        begin = time.monotonic()
        work.call(net, folder)
        whole = time.monotonic() - begin
    done = (_files(folder), bits(net.state_dict()))
    for _ in range(count):
        net = _fresh(work, folder)
        state, around = state_of(net), world()
        at = draw.random() * whole
        interrupter = _Lines(int(at) + 1) if by == "line" else _Timer(at)
        finished, other = False, None
        try:
            with interrupter:
                work.call(net, folder)
            finished = True
        except KeyboardInterrupt:
            pass
        except BaseException as error:
            other = f"{type(error).__name__}: {error}"
        where = f"line {int(at) + 1} of {whole:.0f}, {interrupter.place}" if by == "line" else f"after {at:.4f} s"
        failures: list[Failure] = [] if other is None else [("bare", other)]
        left = _files(folder)
        try:
            values_left, changed = bits(net.state_dict()), differences(state, state_of(net))
        except Exception as error:
            failures.append(("wrong", f"the model is broken: {error}"))
        else:
            as_before = left == files and not changed
            as_done = left == done[0] and values_left == done[1]
            if not (as_done or (as_before and not finished)):
                changed += sorted(set(left) ^ set(files))
                failures.append(("wrong", f"neither as before nor done: {changed}"))
        if strangers := [name for name in left if name not in files and name not in done[0]]:
            failures.append(("litter", f"left {strangers}"))
        if changed := differences(around, world()):
            failures.append(("wrong", f"changed {changed} of the process"))
        tally.count(where, failures)
    shutil.rmtree(folder)
    return tally


def _fresh(work: Work, folder: Path) -> nn.Module:
    """A network, and a folder with what the call needs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    work.prepare(folder)
    return new_net()


def _files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


class _Lines:
    """Presses Ctrl-C at a line of the library that runs, counted from 1; 0 for none."""

    def __init__(self, at: int) -> None:
        self._at, self.seen, self.place = at, 0, ""

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(_LIBRARY):
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self._at:
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self._trace


class _Timer:
    """Presses Ctrl-C after some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self.place = seconds, ""

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, max(self._seconds, 1e-6))

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
