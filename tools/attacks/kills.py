"""Kills: while a file or a folder is written its process gets SIGKILL, and the old content or the new is there."""

from __future__ import annotations

import copy
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from amct_pytorch.checkpoint import load_decomposed, load_training_state, save_decomposed
from amct_pytorch.export import export_onnx
from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    FixedRank,
    auto_decomposition,
    decompose_network,
    load_plan,
    plan_decomposition,
)

from .tally import Failure, Tally
from .victim import bits, images, new_net


@dataclass(frozen=True)
class Writing:
    """A call that writes.

    Attributes
    ----------
    name
        For the table.
    file
        Name of the file or folder to write.
    write
        Writes to a path the content of a number, 0 or 1.
    read
        What is there, in a form to be compared; raises if it is not complete.
    """

    name: str
    file: str
    write: Callable[[Path, int], object]
    read: Callable[[Path], object]


def attack_kills(folder: Path, count: int, draw: random.Random) -> Iterator[Tally]:
    """Kill a child process for each attempt, at random moments of the whole call or of its writing.

    Parameters
    ----------
    folder
        An empty one to work in.
    count
        Number of kills of each kind.
    draw
        Chooses the moments.
    """
    for number, writing in enumerate(_writings()):
        yield _killed(writing, folder / str(number), count, draw)


def _writings() -> Iterator[Writing]:
    nets = [auto_decomposition(new_net(seed))[0].eval() for seed in (1, 2)]
    ranks = [DecompositionConfig(rank=FixedRank(rank)) for rank in (16, 32)]
    originals = [new_net(3), new_net(3)]
    plans = [plan_decomposition(net, config) for net, config in zip(originals, ranks, strict=True)]

    def save(place: Path, which: int) -> None:
        save_decomposed(nets[which], place, training_state={"epoch": which})

    def read_checkpoint(place: Path) -> object:
        return bits(load_decomposed(new_net(), place)[0].state_dict()), load_training_state(place)

    def read_plan(place: Path) -> object:
        load_plan(place)
        return place.read_bytes()

    def apply(place: Path, which: int) -> None:
        plans[which].apply(copy.deepcopy(originals[which]), place)

    def decompose(place: Path, which: int) -> None:
        auto_decomposition(copy.deepcopy(originals[which]), place, config=ranks[which])

    def read_information(place: Path) -> object:
        decompose_network(new_net(), place)
        return place.read_bytes()

    def export(place: Path, which: int) -> None:
        export_onnx(nn.Sequential(nn.Conv2d(3, 2 + which, 3)).eval(), images(), place)

    def read_onnx(place: Path) -> object:
        import onnx

        model = onnx.load(place)
        onnx.checker.check_model(model, full_check=True)
        return [dimension.dim_value for dimension in model.graph.output[0].type.tensor_type.shape.dim]

    yield Writing("save_decomposed", "checkpoint", save, read_checkpoint)
    yield Writing("plan.save", "plan.pt", lambda place, which: plans[which].save(place), read_plan)
    yield Writing("plan.apply", "info.json", apply, read_information)
    yield Writing("auto_decomposition", "info.json", decompose, read_information)
    yield Writing("export_onnx", "net.onnx", export, read_onnx)


def _killed(writing: Writing, folder: Path, count: int, draw: random.Random) -> Tally:
    tally = Tally(f"kill: {writing.name}")
    place = folder / writing.file
    folder.mkdir()
    contents, seconds = [], 0.0
    for which in (0, 1):
        begin = time.monotonic()
        writing.write(place, which)
        seconds = time.monotonic() - begin
        contents.append(writing.read(place))
    for number in range(count):
        _remove(place)
        overwrites = number % 2 == 0
        if overwrites:
            writing.write(place, 0)
        when = draw.random()
        finished = _kill(lambda: writing.write(place, 1), folder, place, seconds * 1.2 * when, at_draft=number % 4 > 1)
        how = f"{'over an earlier one' if overwrites else 'new'}, killed at {when:.2f} of {seconds:.3f} s"
        tally.count(how, list(_failures(writing, place, contents, overwrites, finished)))
    return tally


def _failures(
    writing: Writing, place: Path, contents: list[object], overwrites: bool, finished: bool
) -> Iterator[Failure]:
    """What is wrong after a kill, and after the next call that writes to the same path."""
    expected = contents[1:] if finished else contents if overwrites else [None, contents[1]]
    try:
        found = writing.read(place)
    except FileNotFoundError:  # of which the library's errors for a file or a folder that is not there are
        found = None
    except Exception as error:
        found = None
        if overwrites or place.exists():
            yield "wrong", f"cannot be read: {type(error).__name__}: {error}"
    if found not in expected:
        yield "wrong", "neither the old content nor the new is there"
    writing.write(place, 0)
    if writing.read(place) != contents[0]:
        yield "wrong", "the next one is not there"
    if (left := [path.name for path in place.parent.iterdir()]) != [place.name]:
        yield "litter", f"left {left}"


def _kill(work: Callable[[], object], folder: Path, place: Path, after: float, *, at_draft: bool) -> bool:
    """Run work in a child and kill it after some time, or about when it begins to write; whether it had finished."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if at_draft:
        while not any(path.suffix == ".tmp" for path in folder.iterdir()):
            if os.waitpid(child, os.WNOHANG)[0]:
                return True
        after = after % 0.01  # most writing takes some milliseconds
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
