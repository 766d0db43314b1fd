"""Threads that decompose at once take turns: each gets the plan it would get alone, and leaves the model as it was."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from amct_pytorch.tensor_decompose import Calibration, auto_decomposition, plan_decomposition

from .models import TwoConvs, image, snapshot


def _at_once(work: Callable[[], Any], count: int = 3) -> list[Any]:
    """What each of several threads gets for the same work, or the error that it ends with."""
    begin, results = threading.Barrier(count), []

    def run() -> None:
        begin.wait()
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class _Slow(TwoConvs):
    """A network whose forward lets other threads run in its midst."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pause = threading.Event()
        pause.wait(0.005)
        result = super().forward(x)
        pause.wait(0.005)
        return result


@pytest.mark.parametrize("mode", [None, "whiten", pytest.param("reconstruct", marks=pytest.mark.slow)])
def test_threads_that_plan_one_model_get_the_same_plan_and_leave_it_in_its_mode(mode: Any) -> None:
    model = _Slow().train()
    check = snapshot(model)
    settings: dict[str, Any] = {"example_inputs": image()}
    if mode is not None:
        settings["calibration"] = Calibration(image(48, 3, 16, 16).split(12), mode=mode)
    alone = plan_decomposition(model, **settings)
    assert _at_once(lambda: plan_decomposition(model, **settings)) == [alone] * 3
    check()
    assert model.training


def test_a_plan_made_while_another_thread_calibrates_decomposes_the_same_layers() -> None:
    model = _Slow()
    calibration = Calibration(image(48, 3, 16, 16).split(12))
    alone = plan_decomposition(model)
    plans: list[Any] = []
    other = threading.Thread(target=lambda: plans.append(plan_decomposition(model)))

    def forward(net: nn.Module, batch: torch.Tensor) -> object:
        if not other.is_alive() and not plans:
            other.start()
            threading.Event().wait(0.1)
        return net(batch)

    plan_decomposition(model, calibration=Calibration(calibration.batches, forward=forward))
    other.join()
    assert plans == [alone]


def test_threads_that_decompose_one_model_decompose_it_once() -> None:
    model = _Slow()
    results = _at_once(lambda: auto_decomposition(model, example_inputs=image())[1])
    assert sorted(map(len, results)) == [0, 0, 2]


_DRAWS: dict[str, Callable[[], float]] = {
    "Python": random.random,
    "NumPy": np.random.rand,
    "torch": lambda: float(torch.rand(())),
}


@contextlib.contextmanager
def _another_thread(work: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """A thread that lives during the block, and does some work each time that the function given is called."""
    wanted, done, end = threading.Event(), threading.Event(), threading.Event()

    def run() -> None:
        while wanted.wait() and not end.is_set():
            wanted.clear()
            work()
            done.set()

    def once() -> None:
        done.clear()
        wanted.set()
        done.wait()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield once
    finally:
        end.set()
        wanted.set()
        thread.join()


@pytest.mark.parametrize("kind", list(_DRAWS))
def test_what_another_thread_draws_meanwhile_does_not_come_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, drawn = _DRAWS[kind], []

    class Drawing(TwoConvs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            other()
            return super().forward(x)

    with _another_thread(lambda: drawn.append(draw())) as other:
        monkeypatch.setattr(time, "sleep", lambda seconds: other())  # it goes on drawing while this thread rests
        for _ in range(3):
            plan_decomposition(Drawing(), example_inputs=image())
    assert len(drawn) == 6
    assert len(set(drawn)) == 6


@pytest.mark.parametrize("kind", list(_DRAWS))
def test_what_the_model_draws_comes_again_beside_threads_that_do_not_draw(kind: str) -> None:
    draw, drawn = _DRAWS[kind], []

    class Drawing(TwoConvs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            drawn.append(draw())
            return super().forward(x)

    model = Drawing()
    with _another_thread(lambda: None):
        for _ in range(3):
            plan_decomposition(model, example_inputs=image())
    assert drawn == [draw()] * 3


def test_a_generator_that_nothing_drew_from_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that draws between reading and writing would draw the same numbers again."""
    written: list[object] = []
    for module, name in ((random, "setstate"), (np.random, "set_state"), (torch, "set_rng_state")):
        monkeypatch.setattr(module, name, written.append)
    plan_decomposition(TwoConvs(), example_inputs=image())
    assert written == []
