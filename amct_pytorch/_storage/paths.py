"""Path arguments: their meaning, whether they can be read or written, and errors that name the path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import AmctError, ConfigError, ConfigTypeError, quoted, shown


def resolved(path: object, called: str, kind: str) -> Path:
    """The absolute path that an argument means, with symbolic links resolved.

    Parameters
    ----------
    path
        The argument.
    called
        Name of the argument, for the message: "decompose_info_path".
    kind
        What the path should lead to, for the message: "file" or "directory".

    Raises
    ------
    ConfigTypeError
        The argument is not a path.
    ConfigError
        The path is empty, or has a null character.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ConfigTypeError(f"{called} must be the path of a {kind}, found {quoted(path)}")
    if not text or "\0" in text:
        raise ConfigError(f"{called} must be the path of a {kind}, found {quoted(path)}")
    return Path(os.path.realpath(text))


def file_to_read(
    path: str | os.PathLike[str], called: str, what: str, error: type[OSError], missing: type[OSError]
) -> Path:
    """The absolute path of an existing regular file.

    Parameters
    ----------
    path, called
        See `resolved`.
    what
        Kind of the file, for the message: "decomposition information file".
    error
        The class of error to raise if the path cannot be read, or is not a regular file.
    missing
        The class of error to raise if no file exists.

    Raises
    ------
    ConfigTypeError, ConfigError
        See `resolved`.
    """
    place = resolved(path, called, "file")
    with access_errors(place, "read", error):
        if not place.exists():
            raise missing(f"{shown(place)}: there is no such {what}")
        if not place.is_file():
            raise error(
                f"{shown(place)}: expected a {what}, found {'a directory' if place.is_dir() else 'no regular file'}"
            )
    return place


def file_to_write(path: str | os.PathLike[str], called: str, error: type[OSError]) -> Path:
    """The absolute path of a regular file that can be created or replaced. Nothing is written.

    Parameters
    ----------
    path, called
        See `resolved`.
    error
        The class of error to raise if the path is a directory or a device, or its folder is not writable.

    Raises
    ------
    ConfigTypeError, ConfigError
        See `resolved`.
    """
    place = resolved(path, called, "file")
    with access_errors(path, "written", error):
        if place.is_dir() or os.fspath(path).replace(os.sep, "/").rpartition("/")[2] in ("", ".", ".."):
            raise error(f"{shown(path)}: expected the path of a file to write, found a directory")
        if place.exists() and not place.is_file():
            raise error(f"{shown(path)}: expected a regular file or a new one, found something else")
        _check_room(place, path, error)
    return place


def folder_to_write(path: str | os.PathLike[str], called: str, error: type[OSError]) -> Path:
    """The absolute path of a folder that can be created or replaced. Nothing is written.

    Whatever exists at the path passes; the caller decides what may be replaced.

    Parameters
    ----------
    path, called
        See `resolved`.
    error
        The class of error to raise if the parent folder is not writable.

    Raises
    ------
    ConfigTypeError, ConfigError
        See `resolved`.
    """
    place = resolved(path, called, "directory")
    with access_errors(path, "written", error):
        _check_room(place, path, error)
    return place


def _check_room(place: Path, path: object, error: type[OSError]) -> None:
    """Check that the nearest existing parent folder of a path is writable."""
    # Path.exists is False also for a path that cannot be examined, such as too long a name; stat raises the reason.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        place.stat()
    folder = place.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise error(f"{shown(path)}: cannot be written: {folder} is not a writable folder")


@contextlib.contextmanager
def access_errors(place: object, what: str, error: type[OSError]) -> Iterator[None]:
    """Turn an OSError of a block into an error of this class, whose message names the path.

    Errors of this package pass unchanged, as they name the path already.

    Parameters
    ----------
    place
        The path, as the user wrote it.
    what
        What cannot be done with it: "read" or "written".
    error
        The class of error to raise.
    """
    try:
        yield
    except OSError as failure:
        if isinstance(failure, AmctError):
            raise
        raise error(f"{shown(place)}: cannot be {what}: {failure}") from failure
