"""One lock for calls that change settings of the whole process and run the user's models."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager

# Reentrant, as the user's progress function or forward may itself plan a decomposition.
_lock = threading.RLock()


def one_at_a_time() -> AbstractContextManager[object]:
    """A context in which only one thread of the process runs at a time; to be held from survey to finished plan."""
    return _lock


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    # A lock held at the fork would never be released in the child, which has only the forking thread.
    os.register_at_fork(after_in_child=_renew_lock)
