"""Drafts: hidden files and folders beside a path, flushed to disk and renamed to it when they are complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .draft_locks import locked, new_draft, remove, remove_abandoned


@contextlib.contextmanager
def drafted(place: Path) -> Iterator[Path]:
    """A hidden path beside a place, at which the block creates a file or folder and renames it to the place.

    Missing folders above the place are made. If the block fails, the draft and those of them that are empty are
    removed; when it is left without an error nothing is left to do that could fail after the rename. Drafts for the
    same place that killed processes have left behind are removed before.
    """
    draft = new_draft(place)
    missing = [folder for folder in place.parents if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)  # another process may be making the same
        remove_abandoned(place)
        with locked(draft):
            try:
                yield draft
            except BaseException:
                with contextlib.suppress(OSError):
                    remove(draft)
                raise
    except BaseException:
        for folder in missing:  # from the inside out
            with contextlib.suppress(OSError):  # it was not made yet, or holds what someone else has put there
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
