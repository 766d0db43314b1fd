"""Replace a folder as a whole: at any moment the old or the new one can be found, complete."""

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
    """An empty temporary folder for the block to fill, which is then renamed to its place.

    The content is on the disk before the rename. Folder and files have the modes of those that they replace, or the
    umask's where they are new. Missing folders above the place are made. If the block fails, everything on disk is as
    it was. A process that is killed while one folder replaces another may leave the old one under another name, where
    `current_folder` still finds it.

    Parameters
    ----------
    place
        The final path, from `paths.folder_to_write`.
    error
        The class of error to raise if the folder cannot be written.
    replaces
        Whether to replace an existing folder with all of its content; otherwise an existing folder must be empty.
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
    """The path of the newest complete folder, which has another name if a process was killed between two renames.

    Parameters
    ----------
    place
        The final path that was passed to `new_folder`.
    """
    return _previous_of(place) if not place.exists() and _previous_of(place).exists() else place


def _swap(draft: Path, place: Path) -> None:
    """Move the existing folder out of the way, rename the draft to its place, and remove the old folder."""
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
    """The path of the old folder between the two renames."""
    return place.with_name(f".{place.name}.previous")


def _sync(folder: Path) -> None:
    """Wait until a folder and everything in it is on disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            sync_file(path)
    sync_folder(folder)
