"""What a path argument means, whether it can be read or written, and the error that names it where it cannot."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import AmctError, ConfigError, ConfigTypeError


def resolved(path: object, called: str, kind: str) -> Path:
    """The place that a path argument means, symbolic links followed.

    Parameters
    ----------
    path
        The argument.
    called
        Its name, for the message: "decompose_info_path".
    kind
        What it is the path of: "file" or "directory".

    Raises
    ------
    ConfigTypeError, ConfigError
        It is no path; it is an empty one, or has a null character.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ConfigTypeError(f"{called} must be the path of a {kind}, found {path!r}")
    if not text or "\0" in text:
        raise ConfigError(f"{called} must be the path of a {kind}, found {path!r}")
    return Path(os.path.realpath(text))


def file_to_read(
    path: str | os.PathLike[str], called: str, what: str, error: type[OSError], missing: type[OSError]
) -> Path:
    """The place of a regular file that exists.

    Parameters
    ----------
    path, called
        See `resolved`.
    what
        What the file is, for the message: "decomposition information file".
    error, missing
        What to raise where it cannot be read, and where there is none.
    """
    place = resolved(path, called, "file")
    with access_errors(place, "read", error):
        if not place.exists():
            raise missing(f"{place}: there is no such {what}")
        if not place.is_file():
            raise error(f"{place}: expected a {what}, found {'a directory' if place.is_dir() else 'no regular file'}")
    return place


def file_to_write(path: str | os.PathLike[str], called: str, error: type[OSError]) -> Path:
    """The place of a regular file that can be replaced, or of a new one that can be made. Nothing is written.

    Parameters
    ----------
    path, called
        See `resolved`.
    error
        What to raise where it is a directory or a device, or where its folder cannot be written into.
    """
    place = resolved(path, called, "file")
    with access_errors(path, "written", error):
        if place.is_dir() or os.fspath(path).replace(os.sep, "/").rpartition("/")[2] in ("", ".", ".."):
            raise error(f"{path}: expected the path of a file to write, found a directory")
        if place.exists() and not place.is_file():
            raise error(f"{path}: expected a regular file or a new one, found something else")
        _check_room(place, path, error)
    return place


def folder_to_write(path: str | os.PathLike[str], called: str, error: type[OSError]) -> Path:
    """The place of a folder that can be made, or replaced by another. Nothing is written.

    What may be replaced is for the caller to decide: whatever is there passes.

    Parameters
    ----------
    path, called
        See `resolved`.
    error
        What to raise where the folder around it cannot be written into.
    """
    place = resolved(path, called, "directory")
    with access_errors(path, "written", error):
        _check_room(place, path, error)
    return place


def _check_room(place: Path, path: object, error: type[OSError]) -> None:
    """Check that the folder of a place, or the nearest one that exists above it, can be written into."""
    # Path.exists answers False to what it cannot look at, such as a name that is too long; stat says why.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        place.stat()
    folder = place.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise error(f"{path}: cannot be written: {folder} is no folder that can be written into")


@contextlib.contextmanager
def access_errors(place: object, what: str, error: type[OSError]) -> Iterator[None]:
    """Raise what the file system reports in the block as an error of this class, with the place in its message.

    Errors of this package pass: they name their place already.

    Parameters
    ----------
    place
        What was worked on, a path as the user knows it.
    what
        What could not be done: "read" or "written".
    error
        What to raise.
    """
    try:
        yield
    except OSError as failure:
        if isinstance(failure, AmctError):
            raise
        raise error(f"{place}: cannot be {what}: {failure}") from failure
