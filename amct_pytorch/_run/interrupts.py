"""Work that neither a Ctrl-C must cut in two, nor a fork leave half done in the child."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Generic, TypeVar

Value = TypeVar("Value")

# What blocks now running in any thread have changed in the process: calls that restore it, the newest last.
_changed: list[Callable[[], object]] = []


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Have a Ctrl-C (SIGINT) wait for the end of the block, and then do what it would have done; other signals do not.

    In other threads than the main one nothing is done, as Python interrupts the main one alone; nor where a Ctrl-C is
    ignored, or ends the process without running any more Python. A child forked in the block is interrupted at once.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    pressed, process = False, os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if os.getpid() == process:
            pressed = True
        else:
            handler(number, frame)

    try:
        try:
            signal.signal(signal.SIGINT, note)
            yield
        finally:
            signal.signal(signal.SIGINT, handler)
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, handler)
        if pressed:
            signal.raise_signal(signal.SIGINT)


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
