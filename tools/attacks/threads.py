"""Threads: whoever plans at the same time gets the plan that it would get alone, and no model is changed."""

from __future__ import annotations

import copy
import functools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from amct_pytorch.tensor_decompose import DecompositionConfig, FixedRank, auto_decomposition, plan_decomposition

from .tally import Failure, Tally
from .victim import Net, bits, calibration, differences, images, new_net, state_of, world

_AT_ONCE = 4  # threads


def attack_threads(folder: Path, count: int, draw: random.Random) -> Iterator[Tally]:
    """Plan one model in several threads, and several models, by every mode; and decompose several models.

    Parameters
    ----------
    folder
        An empty one to work in.
    count
        Number of threads for each kind, of which four run at once.
    draw
        Chooses the order of the calls.
    """
    rounds = range(max(count // _AT_ONCE, 1))
    for name, settings in _settings():
        one, many = Tally(f"threads: one model, {name}"), Tally(f"threads: many models, {name}")
        for round_ in rounds:
            ranks = draw.choices((8, 16, 24), k=_AT_ONCE)
            nets = [new_net(round_ + number) for number in range(_AT_ONCE)]
            one.count(f"round {round_}", list(_failures(nets[:1] * _AT_ONCE, ranks, settings)))
            many.count(f"round {round_}", list(_failures(nets, ranks, settings)))
        yield one
        yield many
    decomposed = Tally("threads: many models decomposed")
    for round_ in rounds:
        decomposed.count(f"round {round_}", list(_failures_of_decomposing(round_, folder)))
    yield decomposed


def _settings() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "plain", dict
    yield "example inputs", lambda: {"example_inputs": images()}
    for mode in ("whiten", "refit", "reconstruct"):
        yield mode, functools.partial(_calibrated, mode)


def _calibrated(mode: str) -> dict[str, Any]:
    return {"calibration": calibration(mode)}


def _failures(nets: list[Net], ranks: list[int], settings: Callable[[], dict[str, Any]]) -> Iterator[Failure]:
    def plan(net: Net, rank: int) -> object:
        return plan_decomposition(net, DecompositionConfig(rank=FixedRank(rank)), **settings())

    around, states = world(), [state_of(net) for net in nets]
    alone = [plan(net, rank) for net, rank in zip(nets, ranks, strict=True)]
    together = _at_once([functools.partial(plan, net, rank) for net, rank in zip(nets, ranks, strict=True)])
    for expected, found in zip(alone, together, strict=True):
        if isinstance(found, BaseException):
            yield "bare", repr(found)
        elif found != expected or str(found) != str(expected):
            yield "wrong", "another plan than alone"
    for net, state in zip(nets, states, strict=True):
        if changed := differences(state, state_of(net)):
            yield "wrong", f"changed {changed} of a model"
    if changed := differences(around, world()):
        yield "wrong", f"changed {changed} of the process"


def _failures_of_decomposing(round_: int, folder: Path) -> Iterator[Failure]:
    nets = [new_net(round_ + number) for number in range(_AT_ONCE)]

    def decompose(net: Net, number: int) -> object:
        return bits(auto_decomposition(net, folder / f"{number}.json")[0].state_dict())

    alone = [decompose(copy.deepcopy(net), number) for number, net in enumerate(nets)]
    together = _at_once([functools.partial(decompose, net, number) for number, net in enumerate(nets)])
    for expected, found in zip(alone, together, strict=True):
        if isinstance(found, BaseException):
            yield "bare", repr(found)
        elif found != expected:
            yield "wrong", "other weights than alone"


def _at_once(calls: list[Callable[[], object]]) -> list[object]:
    """The results of calls that begin together, or the errors that they end with."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
