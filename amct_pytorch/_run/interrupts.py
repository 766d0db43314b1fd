"""Work that neither a Ctrl-C must cut in two, nor a fork leave half done in the child."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")

# What blocks now running in any thread have changed in the process: calls that restore it, the newest last.
_changed: list[Callable[[], object]] = []


@dataclass(eq=False)
class _Deferral:
    """A block that is running: what a Ctrl-C would have done, and whether one has come."""

    handler: Callable[[int, FrameType | None], Any]
    pressed: bool = False
    process: int = field(default_factory=os.getpid)


_deferrals: list[_Deferral] = []  # of the main thread, the innermost last


@contextlib.contextmanager
def interrupts_deferred(*, second_at_once: bool = False) -> Iterator[None]:
    """Have a Ctrl-C (SIGINT) wait for the end of the block, and then do what it would have done; other signals do not.

    In other threads than the main one nothing is done, as Python interrupts the main one alone; nor where a Ctrl-C is
    ignored, or ends the process without running any more Python. A child forked in the block is interrupted at once.

    Parameters
    ----------
    second_at_once
        For long blocks, which call `interrupt_if_pressed` now and then: a second Ctrl-C before that acts at once,
        wherever the block is, so that one that hangs can be ended.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    own = _Deferral(handler)

    def note(number: int, frame: FrameType | None) -> None:
        again, own.pressed = own.pressed, True
        if (again and second_at_once) or os.getpid() != own.process:
            handler(number, frame)

    try:
        try:
            _deferrals.append(own)
            signal.signal(signal.SIGINT, note)
            yield
        finally:
            signal.signal(signal.SIGINT, handler)
    finally:
        if own in _deferrals:
            _deferrals.remove(own)
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, handler)
        if own.pressed and os.getpid() == own.process:
            signal.raise_signal(signal.SIGINT)


def interrupt_if_pressed() -> None:
    """Do what a Ctrl-C that waits would have done, at a moment when the work can be cut off."""
    if threading.current_thread() is threading.main_thread() and _deferrals and _deferrals[-1].pressed:
        _deferrals[-1].pressed = False
        _deferrals[-1].handler(signal.SIGINT, sys._getframe(1))


@contextlib.contextmanager
def restored_after(change: Callable[[], object], restore: Callable[[], object]) -> Iterator[None]:
    """Change something during a block, and restore it at its end even if a Ctrl-C arrives while that is under way.

    Parameters
    ----------
    change
        Called when the block begins.
    restore
        Called when the block ends, also if ``change`` fails; a second time where the first did not finish.
    """
    done = False
    try:
        try:
            change()
            yield
        finally:
            # An exception may arrive before interrupts are deferred; hence the second attempt below.
            _to_the_end(restore)
            done = True
    finally:
        if not done:
            _to_the_end(restore)


class Switch(Generic[Value]):
    """A setting of the whole process, to be changed for a while; a child that is forked meanwhile has the user's.

    Parameters
    ----------
    read
        Gives the setting.
    write
        Sets it. Quick, as it is also called in a child after a fork.
    value
        What it is to be for a while.
    """

    def __init__(self, read: Callable[[], Value], write: Callable[[Value], object], value: Value) -> None:
        self._restore = functools.partial(write, read())
        self._change = functools.partial(write, value)

    def change(self) -> None:
        """Set the value."""
        _changed.append(self._restore)
        self._change()

    def restore(self) -> None:
        """Set what was found at first; once more does no harm."""
        self._restore()
        _forget(self._restore)


def left_whole(context: AbstractContextManager[object]) -> AbstractContextManager[None]:
    """A context whose end no Ctrl-C cuts in two, and which ends in a child that is forked meanwhile.

    Parameters
    ----------
    context
        Changes settings and restores them, whatever ends its block: it is not shown exceptions.
    """
    entered = False

    def change() -> None:
        nonlocal entered
        context.__enter__()
        entered = True
        _changed.append(restore)

    def restore() -> None:
        nonlocal entered
        if entered:
            context.__exit__(None, None, None)
            entered = False
        _forget(restore)

    return restored_after(change, restore)


@interrupts_deferred()
def _to_the_end(function: Callable[[], object]) -> None:
    function()


def _forget(restore: Callable[[], object]) -> None:
    with contextlib.suppress(ValueError):  # it was restored before, or after a fork
        _changed.remove(restore)


def _give_back_in_child() -> None:
    while _changed:
        with contextlib.suppress(Exception):  # settings of a device that a forked child cannot use
            _changed.pop()()


if hasattr(os, "register_at_fork"):
    # The child has the forking thread alone: nobody else would end the blocks of the other threads.
    os.register_at_fork(after_in_child=_give_back_in_child)
