"""Calls that take turns within a process, as they switch settings of all of it and run models of the user's."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager

# Reentrant, as a progress function or a forward of the user's may ask for a plan itself.
_lock = threading.RLock()


def one_at_a_time() -> AbstractContextManager[object]:
    """What a piece of work enters for its whole length, from the first look at a model to the last."""
    return _lock


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    # A child process has no thread that would ever release a lock held at the fork.
    os.register_at_fork(after_in_child=_renew_lock)
