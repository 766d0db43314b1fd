"""Read files that may be anything: only regular ones are opened, and text only up to a size."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import shown
from .paths import access_errors, file_to_read

_LARGEST = 64 * 2**20
"""Largest file that is read, in bytes: far larger than any valid file, far smaller than the memory."""

_NEITHER_WAIT_NOR_FOLLOW = (
    os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
"""How to open what may have become a pipe or a link since it was looked at; on Windows there are no such flags."""

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def open_regular(path: Path, error: type[Exception]) -> BinaryIO:
    """Open a file for reading, if it is a regular one and no link.

    Parameters
    ----------
    path
        Of the file.
    error
        What to raise where it is something else.

    Raises
    ------
    OSError
        There is none, or it cannot be opened.
    """
    # Before it is opened, which a pipe waits in, and which makes some devices act; and again when it is open, as
    # another file may have got its name meanwhile.
    _check_regular(path, os.lstat(path), error)
    file = os.fdopen(os.open(path, _NEITHER_WAIT_NOR_FOLLOW), "rb")
    try:
        _check_regular(path, os.fstat(file.fileno()), error)
    except BaseException:
        file.close()
        raise
    return file


def read_small(path: Path, what: str, *, kind: type[Exception], content: type[ValueError]) -> bytes:
    """All of a regular file, if it is no larger than such a file can be.

    Parameters
    ----------
    path
        Of the file.
    what
        What the file is, for the message: "decomposition information file".
    kind
        What to raise where it is no regular file.
    content
        What to raise where it is far too large.

    Raises
    ------
    OSError
        There is none, or it cannot be read.
    """
    with open_regular(path, kind) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST:
            raise content(f"{shown(path)}: expected a {what} of {_LARGEST} bytes at most, found {size}")
        # The kernel gives the size of files of its own as 0, and None where one has nothing to read yet.
        return file.read(_LARGEST) or b""


def read_text(
    path: str | os.PathLike[str],
    called: str,
    what: str,
    *,
    error: type[OSError],
    missing: type[OSError],
    content: type[ValueError],
) -> str:
    """The content of a text file in UTF-8.

    Parameters
    ----------
    path, called, what, error, missing
        See `paths.file_to_read`.
    content
        The class of error to raise if the file is larger than 64 MiB, or not UTF-8.

    Raises
    ------
    ConfigTypeError, ConfigError
        See `paths.resolved`.
    """
    place = file_to_read(path, called, what, error, missing)
    with access_errors(place, "read", error):
        return decoded(read_small(place, what, kind=error, content=content), place, content)


def decoded(text: bytes, path: Path, error: type[ValueError]) -> str:
    """The text that bytes in UTF-8 are.

    Parameters
    ----------
    text
        Content of a file.
    path
        Of the file, for the message.
    error
        What to raise where it is not UTF-8.
    """
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(f"{shown(path)}: expected UTF-8 text: {failure}") from failure


def _check_regular(path: Path, status: os.stat_result, error: type[Exception]) -> None:
    if not stat.S_ISREG(status.st_mode):
        found = next((words for is_such, words in _KINDS if is_such(status.st_mode)), "a device")
        raise error(f"{shown(path)}: expected a regular file, found {found}: put the file itself there")
