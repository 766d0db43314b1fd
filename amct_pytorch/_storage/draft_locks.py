"""Whose drafts are left over: a process holds a lock beside each of its drafts for as long as it lives.

The system takes the lock from a process that ends, however it ends. So whoever gets the lock of a draft may remove it.
A draft without a lock is never removed, nor one of another host, whose locks a shared file system may not show here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_DIGITS = 16
"""Hexadecimal digits of the hash of host and target: 64 bits, so that no two targets in a folder have the same."""

_NAME = re.compile(rf"\.[0-9a-f]{{{_DIGITS}}}\.[0-9a-f]{{32}}\.(tmp|lock)")
"""The name of any draft, of whatever host, and of its lock."""


def new_draft(place: Path) -> Path:
    """A hidden path beside a place, which no other draft has; its name is short, however long that of the place is."""
    return place.with_name(f"{_beginning(place)}{uuid.uuid4().hex}.tmp")


def is_draft(name: str) -> bool:
    """Whether a file or folder of this name is a draft, or the lock of one, and not the user's."""
    return _NAME.fullmatch(name) is not None


@contextlib.contextmanager
def locked(draft: Path) -> Iterator[None]:
    """Hold the lock of a draft. Where the system or the file system has no such locks, the draft has none."""
    if sys.platform == "win32":
        yield
        return
    lock = _lock_of(draft)
    descriptor = None
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):
            # Waits for another process that has found the new file without a lock, and is about to remove it.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned(place: Path) -> None:
    """Remove the drafts for a place that processes of this host have left behind; what cannot be removed stays."""
    if sys.platform == "win32":
        return
    for lock in place.parent.glob(f"{_beginning(place)}*.lock"):
        with contextlib.suppress(OSError):
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
                remove(lock.with_suffix(".tmp"))
                lock.unlink()
            finally:
                os.close(descriptor)


def remove(draft: Path) -> None:
    """Remove a draft, a file or a folder with all in it, if there is one."""
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft)
    else:
        draft.unlink(missing_ok=True)


def _beginning(place: Path) -> str:
    """How the names of all drafts begin that this host makes for a place."""
    whose = f"{socket.gethostname()}\0{place.name}".encode(errors="surrogateescape")
    return f".{hashlib.sha256(whose).hexdigest()[:_DIGITS]}."


def _lock_of(draft: Path) -> Path:
    return draft.with_suffix(".lock")
