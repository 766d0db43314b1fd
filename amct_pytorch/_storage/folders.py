"""Put a folder into place as a whole: at any moment there is the old one or the new one, complete."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from .drafts import drafted, sync_file, sync_folder
from .modes import begin_folder, set_mode, set_modes_of_files
from .paths import access_errors


@contextlib.contextmanager
def new_folder(place: Path, error: type[OSError], *, replaces: bool) -> Iterator[Path]:
    """An empty folder beside a place, for the block to fill; then a rename.

    The content is on the disk before the rename. Folder and files have the modes of those that they replace, or the
    umask's where they are new. Missing folders above the place are made. If the block fails, everything on disk is as
    it was. A process that is killed while one folder replaces another may leave the old one under another name, where
    `current_folder` still finds it.

    Parameters
    ----------
    place
        Where the folder is to be, from `paths.folder_to_write`.
    error
        What to raise where it cannot be written.
    replaces
        Whether a folder that is there is replaced with all that it holds. Otherwise only an empty one is.
    """
    with access_errors(place, "written", error), drafted(place) as draft:
        earlier = current_folder(place)
        mode = begin_folder(draft, earlier)
        yield draft
        _sync(draft)  # before the modes, by which its owner may not be allowed to open what is in it
        set_modes_of_files(draft, earlier)
        set_mode(draft, mode)
        if replaces:
            _swap(draft, place)
        else:
            draft.rename(place)
            sync_folder(place.parent)


def current_folder(place: Path) -> Path:
    """Where the newest whole folder is: under another name, if a process was killed between two renames."""
    return _previous_of(place) if not place.exists() and _previous_of(place).exists() else place


def _swap(draft: Path, place: Path) -> None:
    """Rename the draft to the place, out of which the folder that was there is renamed, and then removed."""
    previous = _previous_of(place)
    try:
        if place.exists():
            shutil.rmtree(previous, ignore_errors=True)
            place.rename(previous)
        draft.rename(place)
    except BaseException:
        if previous.exists() and not place.exists():
            previous.rename(place)
        raise
    try:
        sync_folder(place.parent)
    finally:
        shutil.rmtree(previous, ignore_errors=True)


def _previous_of(place: Path) -> Path:
    """Where the folder that is replaced is between two renames."""
    return place.with_name(f".{place.name}.previous")


def _sync(folder: Path) -> None:
    """Wait until a folder is on the disk itself, with all files and folders in it."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            sync_file(path)
    sync_folder(folder)
