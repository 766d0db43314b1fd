"""Replace a file atomically: at any moment the old or the new one is in place, complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .drafts import drafted, sync_file, sync_folder
from .modes import begin_file, set_mode
from .paths import access_errors


@contextlib.contextmanager
def new_file(place: Path, error: type[OSError], *, sync_name: bool = True) -> Iterator[Path]:
    """A temporary path for the block to write a file to, which is then renamed to its place.

    The content is on the disk before the rename, and has the mode of the file that it replaces, or the umask's where
    it is new. Missing folders are made. If the block fails, everything on disk is as it was.

    Parameters
    ----------
    place
        The final path, from `paths.file_to_write`.
    error
        The class of error to raise if the file cannot be written.
    sync_name
        Wait until the rename too is on the disk. A failure of this wait comes when the new file is in place
        already. So a caller who undoes something else after an error passes False, and calls `drafts.sync_folder`
        when nothing is left to undo.
    """
    with access_errors(place, "written", error), drafted(place) as draft:
        mode = begin_file(draft, place)
        yield draft
        sync_file(draft)
        set_mode(draft, mode)
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
