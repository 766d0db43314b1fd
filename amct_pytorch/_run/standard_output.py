"""The standard output as the system knows it, which C code and child processes write to as well as Python."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator

_OUTPUT, _ERROR = 1, 2
"""File descriptors of the standard output and of standard error."""

_lock = threading.Lock()
_blocks = 0  # that are running, in whatever thread
_saved = -1  # the standard output meanwhile


@contextlib.contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Have what is printed meanwhile go to standard error, whoever prints it: C code, a child process, or Python.

    Blocks of several threads may overlap. Where a process has no standard output, or no standard error, nothing is
    done.
    """
    _begin()
    try:
        yield
    finally:
        _end()


def _begin() -> None:
    global _blocks, _saved
    with _lock:
        _blocks += 1
        if _blocks == 1:
            _flush()
            with contextlib.suppress(OSError):
                _saved = os.dup(_OUTPUT)
                os.dup2(_ERROR, _OUTPUT)


def _end() -> None:
    global _blocks, _saved
    with _lock:
        _blocks -= 1
        if _blocks == 0 and _saved >= 0:
            _flush()
            os.dup2(_saved, _OUTPUT)
            os.close(_saved)
            _saved = -1


def _flush() -> None:
    """Write what Python and C hold back, so that it goes where it went when it was printed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it has gone, is closed, or there is none
        sys.__stdout__.flush()  # type: ignore[union-attr]
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another C library than the one this expects
        ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None).fflush(None)
