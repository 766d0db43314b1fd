"""Drafts: hidden files and folders beside a path, flushed to disk and renamed to it when they are complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def drafted(place: Path) -> Iterator[Path]:
    """A hidden path beside a place, at which the block creates a file or folder and renames it to the place.

    Missing parent folders are created. If the block fails, the draft and the created folders that are still empty are
    removed. After a success nothing is left to clean up, so nothing can fail after the rename.

    Parameters
    ----------
    place
        The final path.
    """
    # Not by tempfile, whose files and folders only their owner can read.
    draft = place.with_name(f".{uuid.uuid4().hex}.tmp")
    missing = [folder for folder in place.parents if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)  # another process may create it at the same time
        yield draft
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
        for folder in missing:  # the innermost first
            with contextlib.suppress(OSError):  # not created yet, or no longer empty
                folder.rmdir()
        raise


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on disk, so that it survives a power failure.

    Parameters
    ----------
    path
        An existing file, or on POSIX a folder.
    """
    # Windows flushes only files open for writing; elsewhere the file may be read-only.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk. Does nothing on systems that cannot open a folder.

    Parameters
    ----------
    folder
        An existing folder.
    """
    with contextlib.suppress(OSError):
        sync_file(folder)
