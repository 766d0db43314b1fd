"""Replace a file atomically: at any moment the old or the new one is in place, complete."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .drafts import drafted, sync_file, sync_folder
from .paths import access_errors


@contextlib.contextmanager
def new_file(place: Path, error: type[OSError], *, sync_name: bool = True) -> Iterator[Path]:
    """A temporary path for the block to write a file to, which is then renamed to its place.

    The content is flushed to disk before the rename, and gets the mode of the file that it replaces. Missing folders
    are created. If the block fails, everything on disk is as it was.

    Parameters
    ----------
    place
        The final path, from `paths.file_to_write`.
    error
        The class of error to raise if the file cannot be written.
    sync_name
        Whether to wait until the rename is on disk too. An interrupt during this wait leaves the new file in place, so
        a caller that rolls back other work after an error passes False, and calls `drafts.sync_folder` once nothing
        can be rolled back any more.
    """
    with access_errors(place, "written", error), drafted(place) as draft:
        yield draft
        sync_file(draft)
        if place.exists():
            shutil.copymode(place, draft)
        os.replace(draft, place)
    if sync_name:
        sync_folder(place.parent)


def write_file(place: Path, content: str | bytes, error: type[OSError], *, sync_name: bool = True) -> None:
    """Write a file as a whole.

    Parameters
    ----------
    place, error, sync_name
        See `new_file`.
    content
        The whole content. Text is written as UTF-8, with its line endings unchanged.
    """
    with new_file(place, error, sync_name=sync_name) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
