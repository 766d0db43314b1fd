"""Read a text file given by the user, which may have any content."""

from __future__ import annotations

import os

from .paths import access_errors, file_to_read

_LARGEST = 64 * 2**20
"""Largest file that is read, in bytes: far larger than any valid file, far smaller than the memory."""


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
        size = place.stat().st_size
        if size > _LARGEST:
            raise content(f"{place}: expected a {what} of {_LARGEST} bytes at most, found {size}")
        try:
            return place.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as failure:
            raise content(f"{place}: expected UTF-8 text: {failure}") from failure
