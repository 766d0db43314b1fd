"""Who may read and write what is put into place: whoever might what it replaces, or as the umask says."""

from __future__ import annotations

import stat
from pathlib import Path

_OWNER_WORKS = stat.S_IRWXU
_OWNER_WRITES = stat.S_IRUSR | stat.S_IWUSR


def mode_of(path: Path) -> int:
    """The permissions of a file or a folder."""
    return stat.S_IMODE(path.stat().st_mode)


def set_mode(path: Path, mode: int) -> None:
    """Give a file or a folder these permissions; some file systems have one for all, and refuse to set any."""
    if mode_of(path) != mode:
        path.chmod(mode)


def begin_file(draft: Path, place: Path) -> int:
    """Make an empty file, and say which permissions it is to have when it is complete.

    They are set then: the library that writes it may make a new one. But what is private is so from the first byte.

    Parameters
    ----------
    draft
        Of the file.
    place
        Of the file that it will replace, if there is one.
    """
    draft.touch()
    mode = mode_of(place if place.exists() else draft)
    set_mode(draft, mode | _OWNER_WRITES)
    return mode


def begin_folder(draft: Path, place: Path) -> int:
    """Make an empty folder, and say which permissions it is to have when it is complete; see `begin_file`."""
    draft.mkdir()
    mode = mode_of(place if place.exists() else draft)
    set_mode(draft, mode | _OWNER_WORKS)
    return mode


def set_modes_of_files(draft: Path, place: Path) -> None:
    """Give each file in a folder the permissions of the one that it replaces, or at least those of a new file.

    Some libraries make files that only their owner may read, whatever the umask.

    Parameters
    ----------
    draft
        The folder.
    place
        Of the folder that it will replace, if there is one.
    """
    probe = draft / ".mode"
    probe.touch()
    new = mode_of(probe)
    probe.unlink()
    for path in draft.rglob("*"):
        if path.is_file():
            replaced = place / path.relative_to(draft)
            set_mode(path, mode_of(replaced) if replaced.is_file() else mode_of(path) | new)
