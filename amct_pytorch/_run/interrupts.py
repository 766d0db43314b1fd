"""Work that a Ctrl-C must not cut in two."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class _Deferral:
    """A block that is running: what a Ctrl-C would have done, and whether one has come."""

    handler: Callable[[int, FrameType | None], Any]
    pressed: bool = False


_deferrals: list[_Deferral] = []  # of the main thread, the innermost last


@contextlib.contextmanager
def interrupts_deferred(*, second_at_once: bool = False) -> Iterator[None]:
    """Have a Ctrl-C (SIGINT) wait for the end of the block, and then do what it would have done; other signals do not.

    In other threads than the main one nothing is done, as Python interrupts the main one alone; nor where a Ctrl-C is
    ignored, or ends the process without running any more Python.

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
        if again and second_at_once:
            handler(number, frame)

    signal.signal(signal.SIGINT, note)
    _deferrals.append(own)
    try:
        yield
    finally:
        _deferrals.remove(own)
        signal.signal(signal.SIGINT, handler)
        if own.pressed:
            signal.raise_signal(signal.SIGINT)


def interrupt_if_pressed() -> None:
    """Do what a Ctrl-C that waits would have done, at a moment when the work can be cut off."""
    if threading.current_thread() is threading.main_thread() and _deferrals and _deferrals[-1].pressed:
        _deferrals[-1].pressed = False
        _deferrals[-1].handler(signal.SIGINT, sys._getframe(1))
