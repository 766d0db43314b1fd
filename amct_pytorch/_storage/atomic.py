"""The information file on disk: read with care, written in one step, so a crash leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from pathlib import Path

from ..errors import ConfigError, InfoFileAccessError, InfoFileError, InfoFileNotFound

_LARGEST = 64 * 2**20


def read_text(path: str | os.PathLike[str]) -> str:
    """The content of a decomposition information file.

    Raises
    ------
    InfoFileNotFound
        There is no such file.
    InfoFileAccessError
        It cannot be read: a directory, a device, no permission.
    InfoFileError
        It is far too large for such a file, or not UTF-8.
    """
    place = Path(os.path.realpath(_checked_path(path)))
    try:
        if not place.exists():
            raise InfoFileNotFound(f"{place}: there is no such decomposition information file")
        if not place.is_file():
            found = "a directory" if place.is_dir() else "no regular file"
            raise InfoFileAccessError(f"{place}: expected a decomposition information file, found {found}")
        size = place.stat().st_size
        if size > _LARGEST:
            raise InfoFileError(
                f"{place}: expected a decomposition information file of {_LARGEST} bytes at most, found {size}"
            )
        return place.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InfoFileError(f"{place}: expected UTF-8 text: {error}") from error
    except InfoFileAccessError:
        raise
    except OSError as error:
        raise InfoFileAccessError(f"{place}: cannot be read: {error}") from error


def check_writable(path: str | os.PathLike[str]) -> Path:
    """The place that a file will be written to, links followed, if it looks writable; nothing is written.

    Raises
    ------
    InfoFileAccessError
        It is a directory or a device, or its folder cannot be written into.
    """
    place = Path(os.path.realpath(_checked_path(path)))
    try:
        # Path.exists answers False to what it cannot look at, a name too long, say.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            place.stat()
        if place.is_dir() or os.fspath(path).replace(os.sep, "/").rpartition("/")[2] in ("", ".", ".."):
            raise InfoFileAccessError(f"{path}: expected the path of a file to write, found a directory")
        if place.exists() and not place.is_file():
            raise InfoFileAccessError(f"{path}: expected a regular file or a new one, found something else")
        folder = place.parent
        while not folder.exists():
            folder = folder.parent
    except InfoFileAccessError:
        raise
    except OSError as error:
        raise InfoFileAccessError(f"{path}: cannot be written: {error}") from error
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InfoFileAccessError(f"{path}: cannot be written: {folder} is no folder that can be written into")
    return place


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file in one step; missing folders are made.

    The text is on disk under another name before a rename puts it into place, so the file is the old one
    or the new one at any moment. After an error there is nothing new on disk.

    Raises
    ------
    InfoFileAccessError
        The file cannot be written.
    """
    place = check_writable(path)
    # Not by tempfile: a file it makes is readable by its owner alone.
    draft = place.with_name(f".{uuid.uuid4().hex}.tmp")
    made: list[Path] = []
    try:
        _make_folders(place.parent, made)
        with draft.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, draft)
        os.replace(draft, place)
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()
        if isinstance(error, OSError):
            raise InfoFileAccessError(f"{place}: cannot be written: {error}") from error
        raise


def _checked_path(path: object) -> Path:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"decompose_info_path must be the path of a file, found {path!r}")
    return Path(text)


def _make_folders(folder: Path, made: list[Path]) -> None:
    """Make a folder and those missing above it, and note each one made, outermost first."""
    if not folder.exists():
        _make_folders(folder.parent, made)
        folder.mkdir(exist_ok=True)
        made.append(folder)


def sync_folder_of(path: str | os.PathLike[str]) -> None:
    """Let a rename in the file's folder outlive a power cut; where a folder cannot be opened, nothing is done."""
    with contextlib.suppress(OSError):
        descriptor = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
