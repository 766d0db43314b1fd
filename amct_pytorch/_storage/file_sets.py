"""Files that belong together: a folder has all of a set, or none, whatever fails on the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from .draft_locks import remove
from .drafts import drafted, sync_file, sync_folder
from .modes import set_modes_of_files
from .paths import access_errors

_OWNER_ALONE = 0o700


@contextlib.contextmanager
def new_files(folder: Path, error: type[OSError], *, key: str, replaced: Collection[str]) -> Iterator[Path]:
    """A hidden folder for the block to write files to, which then take their places in a folder together.

    They are on the disk before the first is moved. Those of an earlier set go before, the key file first, and the key
    file of the new set comes last: whoever finds one finds all that belongs to it, and nothing else. If anything
    fails, everything on disk is as it was; a process that is killed between the moves leaves a folder without a key
    file.

    Parameters
    ----------
    folder
        Where the files are to be, from `paths.folder_to_write`; made if it is missing.
    error
        The class of error to raise if a file cannot be written.
    key
        Name of the file by which a reader knows that the others are there; the block must write it.
    replaced
        Names of the files that an earlier set may have, whether or not this one has them.
    """
    with access_errors(folder, "written", error), drafted(folder / key) as draft:
        draft.mkdir(_OWNER_ALONE)
        with _named_by_place(draft, folder):
            yield draft
        names = sorted((path.name for path in draft.iterdir()), key=lambda name: (name == key, name))
        for name in names:
            sync_file(draft / name)
        set_modes_of_files(draft, folder)
        with set_aside(folder, [key, *sorted({*replaced, *names} - {key})], error):
            _move(names, draft, folder)
        with contextlib.suppress(OSError):
            remove(draft)


@contextlib.contextmanager
def set_aside(folder: Path, names: Collection[str], error: type[OSError]) -> Iterator[None]:
    """Have files out of the way for the block: they are gone when it ends, and back in their places if it fails.

    Parameters
    ----------
    folder
        Where they are.
    names
        Of the files; those that do not exist are left out. The first goes first, and comes back last.
    error
        The class of error to raise if one cannot be moved.
    """
    present = [name for name in names if os.path.lexists(folder / name)]
    if not present:
        yield
        return
    with access_errors(folder, "written", error), drafted(folder / present[0]) as aside:
        aside.mkdir(_OWNER_ALONE)
        moved: list[str] = []
        try:
            for name in present:
                (folder / name).rename(aside / name)
                moved.append(name)
            yield
        except BaseException:
            for name in reversed(moved):
                (aside / name).rename(folder / name)
            raise
        with contextlib.suppress(OSError):
            remove(aside)


def _move(names: Collection[str], draft: Path, folder: Path) -> None:
    """Move files to their places, where there are none; if one cannot be, none is moved."""
    moved: list[str] = []
    try:
        for name in names:
            (draft / name).rename(folder / name)
            moved.append(name)
        sync_folder(folder)
    except BaseException:
        for name in reversed(moved):
            (folder / name).unlink()
        raise


@contextlib.contextmanager
def _named_by_place(draft: Path, folder: Path) -> Iterator[None]:
    """Have errors of the block name the places of the files, and not the drafts that nobody knows of."""
    try:
        yield
    except OSError as failure:
        if str(draft) not in str(failure):
            raise
        raise type(failure)(str(failure).replace(str(draft), str(folder))) from failure
