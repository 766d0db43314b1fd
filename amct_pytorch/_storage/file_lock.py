"""Changes to one file by several processes, one after the other."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def alone_with(place: Path) -> Iterator[None]:
    """Let other processes that do the same wait until the block has ended.

    The lock is that of a hidden file beside it, which stays, as the file itself may be replaced meanwhile. The system
    takes it from a process that ends. Where the system or the file system has no such locks nobody waits.

    Parameters
    ----------
    place
        The file, in an existing folder.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(place.with_name(f".{place.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
