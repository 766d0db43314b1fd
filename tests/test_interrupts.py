"""Ctrl-C at any moment: what belongs together changes together, and the interrupt arrives."""

from __future__ import annotations

import ast
import contextlib
import copy
import itertools
import json
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import amct_pytorch
from amct_pytorch._run import isolation
from amct_pytorch._run.interrupts import (
    Switch,
    interrupt_if_pressed,
    interrupts_deferred,
    left_whole,
    restored_after,
)
from amct_pytorch._run.isolation import leaving_no_trace, untouched_generators
from amct_pytorch._run.workers import run_all
from amct_pytorch.errors import InfoFileAccessError
from amct_pytorch.tensor_decompose import Calibration, auto_decomposition, plan_decomposition
from amct_pytorch.tensor_decompose.methods.linalg import exact_matmul

from .models import TwoConvs, chains, conv, image, snapshot


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def _press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    done = []

    @interrupts_deferred()
    def work() -> None:
        _press()
        done.append("first")
        _press()
        done.append("second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["first", "second"]


def test_blocks_in_blocks_wait_for_the_outermost() -> None:
    done = []

    @interrupts_deferred()
    def work() -> None:
        with interrupts_deferred():
            _press()
        done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["outer"]


def test_an_error_in_the_block_is_the_context_of_the_interrupt() -> None:
    @interrupts_deferred()
    def fail(*, pressed: bool) -> None:
        if pressed:
            _press()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail(pressed=False)
    with pytest.raises(KeyboardInterrupt) as caught:
        fail(pressed=True)
    assert isinstance(caught.value.__context__, ValueError)


def test_a_handler_of_the_users_is_called_once_the_block_has_ended() -> None:
    events: list[object] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: events.append(number))
    try:
        with interrupts_deferred():
            _press()
            events.append("block")
        assert events == ["block", signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_runs_no_python_is_left_alone(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with interrupts_deferred():
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs other signals")
def test_other_signals_do_not_wait() -> None:
    events: list[object] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: events.append(number))
    try:
        with interrupts_deferred():
            signal.raise_signal(signal.SIGUSR1)
            events.append("block")
        assert events == [signal.SIGUSR1, "block"]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_another_thread_changes_no_handler() -> None:
    found: list[object] = []

    def work() -> None:
        with interrupts_deferred():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def _pressing_after(step: int, real: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def press(*arguments: Any, **keywords: Any) -> Any:
        result = real(*arguments, **keywords)
        calls.append(step)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    return press


def _apply(model: nn.Module, path: Path) -> object:
    return plan_decomposition(model).apply(model, path)


@pytest.mark.parametrize("decompose", [auto_decomposition, _apply])
@pytest.mark.parametrize("called", ["replace", "fsync", "open", "close", "stat"])
def test_after_an_interrupt_at_any_step_file_and_model_are_both_old_or_both_new(
    decompose: Callable[[nn.Module, Path], object], called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "info.json"
    pressed = 0
    for step in range(1, 100):
        path.write_text("old")
        model = TwoConvs()
        unchanged = snapshot(model)
        calls: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(os, called, _pressing_after(step, getattr(os, called), calls))
            try:
                decompose(model, path)
            except KeyboardInterrupt:
                pressed += 1
        assert list(tmp_path.iterdir()) == [path]
        if path.read_text() == "old":
            unchanged()
        else:
            assert {entry["ori_layer_info"]["name"] for entry in json.loads(path.read_text())} == chains(model).keys()
        if len(calls) < step:
            break
    assert pressed == step - 1 > 0


def test_an_interrupt_of_a_write_that_fails_leaves_both_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "info.json"
    path.write_text("old")
    model = nn.Sequential(conv())
    plan = plan_decomposition(model)
    unchanged = snapshot(model)

    def fail(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt) as caught:
        plan.apply(model, path)
    assert isinstance(caught.value.__context__, InfoFileAccessError)
    unchanged()
    assert path.read_text() == "old"


def test_a_model_that_is_itself_a_layer_is_decomposed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = conv()
    unchanged = snapshot(layer)
    monkeypatch.setattr(os, "replace", _pressing_after(1, os.replace, []))
    with pytest.raises(KeyboardInterrupt):
        auto_decomposition(layer, tmp_path / "info.json")
    unchanged()
    assert json.loads((tmp_path / "info.json").read_text())[0]["ori_layer_info"]["name"] == ""


class _Interrupting:
    """Raises KeyboardInterrupt at the n-th line of the library that runs, as a Ctrl-C would at an unlucky moment."""

    def __init__(self, line: int) -> None:
        self._left = line
        self._library = str(Path(amct_pytorch.__file__).parent)

    def begin(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._see)

    def end(self) -> None:
        sys.settrace(self._before)

    def _see(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._library):
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
        return self._see


def _process() -> list[object]:
    """What is set for the whole process, or for this thread."""
    return [
        torch._C._get_mkldnn_enabled(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(),
        torch.get_num_threads(), signal.getsignal(signal.SIGINT), random.getstate(),
        np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes(),
    ]  # fmt: skip


def _draw() -> None:
    random.random()
    np.random.rand()
    torch.rand(1)


def _with_three_threads(model: nn.Module) -> AbstractContextManager[object]:
    switch = Switch(torch.get_num_threads, torch.set_num_threads, 3)
    return restored_after(switch.change, switch.restore)


_BLOCKS: dict[str, Callable[[nn.Module], AbstractContextManager[object]]] = {
    "a switch": _with_three_threads,
    "a context of another": lambda model: left_whole(_with_three_threads(model)),
    "exact_matmul": lambda model: exact_matmul(),
    "untouched_generators": lambda model: untouched_generators([torch.device("cpu")]),
    "leaving_no_trace": leaving_no_trace,
    "interrupts_deferred": lambda model: interrupts_deferred(),
}


# Beside many other tests, those that look over a whole model and all generators for each line take long.
_LONG = ("untouched_generators", "leaving_no_trace")


@pytest.mark.parametrize("ending", ["well", "an error"])
@pytest.mark.parametrize(
    "block", [pytest.param(name, marks=[pytest.mark.slow] if name in _LONG else []) for name in _BLOCKS]
)
def test_an_interrupt_at_any_line_of_restoring_leaves_everything_restored(
    block: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beside threads that other tests have left, it would rest for each line.
    monkeypatch.setattr(isolation, "_REST", 0)
    model = nn.Sequential(nn.BatchNorm2d(2))
    with torch.autocast("cpu"):
        for line in itertools.count(1):
            before = _process()
            interrupting, interrupted = _Interrupting(line), False
            try:
                with _BLOCKS[block](model):
                    if block in ("untouched_generators", "leaving_no_trace"):
                        _draw()
                    if block == "leaving_no_trace":
                        model.extra = 1
                    interrupting.begin()
                    if ending == "an error":
                        raise ValueError
            except ValueError:
                pass
            except KeyboardInterrupt:
                interrupted = True
            finally:
                interrupting.end()
            assert _process() == before, line
            assert model.training
            assert not hasattr(model, "extra")
            if not interrupted:
                break
    assert line > 3


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnicodeWarning)
        yield


def _in_a_child(look: Callable[[], object]) -> list[object]:
    """What a function gives in a process that is forked from another thread."""
    reader, writer = os.pipe()

    def fork() -> None:
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, repr(look()).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:  # noqa: PTH123
        return list(ast.literal_eval(pipe.read()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of a fork beside threads
def test_a_process_forked_meanwhile_has_the_settings_of_the_user() -> None:
    def settings() -> list[object]:
        return [torch._C._get_mkldnn_enabled(), torch.get_num_threads()]

    before = settings()
    found: list[object] = []
    filters = len(warnings.filters)
    torch.set_num_threads(2)
    with exact_matmul(), exact_matmul(), _with_three_threads(nn.ReLU()):
        assert settings() == [False, 3]
        assert _in_a_child(settings) == [before[0], 2]
    with exact_matmul():
        run_all(lambda n: n, range(4), costs=[1] * 4, alone_above=9, done=lambda n: found.append(_in_a_child(settings)))
    assert found == [[before[0], 2]] * 4
    with left_whole(_with_three_threads(nn.ReLU())), left_whole(_without_warnings()):
        assert _in_a_child(lambda: [torch.get_num_threads(), len(warnings.filters)]) == [2, filters]
    assert settings() == [before[0], 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_forked_while_interrupts_wait_is_interrupted_at_once() -> None:
    def press() -> list[str]:
        try:
            _press()
            threading.Event().wait(0.01)
        except KeyboardInterrupt:
            return ["interrupted"]
        return ["swallowed"]

    with interrupts_deferred():
        assert _in_a_child(press) == ["interrupted"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_forked_while_another_thread_plans_can_plan_too() -> None:
    found: list[object] = []
    model, other = TwoConvs(), TwoConvs()

    def forward(net: nn.Module, batch: torch.Tensor) -> object:
        if not found:
            found.extend(_in_a_child(lambda: [len(plan_decomposition(other).layers)]))
        return net(batch)

    calibration = Calibration([torch.randn(4, 3, 16, 16)] * 2, forward=forward)
    plan_decomposition(model, calibration=calibration)
    assert found == [len(plan_decomposition(other).layers)]


@interrupts_deferred()
def _cut_off(done: list[str]) -> None:
    interrupt_if_pressed()
    _press()
    done.append("first")
    interrupt_if_pressed()
    done.append("second")


@interrupts_deferred(second_at_once=True)
def _hang(done: list[str]) -> None:
    _press()
    done.append("first")
    _press()
    done.append("second")


@pytest.mark.parametrize("work", [_cut_off, _hang])
def test_a_long_block_ends_where_it_can_be_cut_off_or_at_a_second_ctrl_c(work: Callable[[list[str]], None]) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        work(done)
    assert done == ["first"]


class _Counting(nn.Sequential):
    """A network whose forward changes it, so that it has to be put back."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        self.last = x
        return super().forward(x)


_PUTTING_BACK = ("leaving_no_trace", "untouched_generators", "_untouched", "refill")


def _pressing_at_line(line: int, seen: list[int]) -> Callable[..., Any]:
    """A trace function that presses Ctrl-C at a line of the functions that put a model back, counted from 1."""

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_name not in _PUTTING_BACK:
            return None
        if event == "line":
            seen.append(frame.f_lineno)
            if len(seen) == line:
                _press()
        return trace

    return trace


def test_a_ctrl_c_at_any_line_that_puts_the_model_back_waits_until_it_is_as_it_was() -> None:
    model = _Counting().train()
    unchanged = snapshot(model)
    attributes = {name: copy.copy(value) for name, value in vars(model).items()}
    for line in range(1, 1000, 3):
        seen: list[int] = []
        sys.settrace(_pressing_at_line(line, seen))
        try:
            plan_decomposition(model, example_inputs=image(1, 4, 4, 4))
        except KeyboardInterrupt:
            assert len(seen) >= line
        finally:
            sys.settrace(None)
        unchanged()
        assert vars(model) == attributes
        if len(seen) < line:
            break
    assert line > 30
