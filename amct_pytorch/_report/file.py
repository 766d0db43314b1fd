"""The file that a report is saved to."""

from __future__ import annotations

import os

from .._storage.atomic import write_file
from .._storage.paths import file_to_write
from ..errors import ReportAccessError


def write_report(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, which is put into place only when it is complete.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced, missing folders are created.
    content
        The whole content.

    Raises
    ------
    ConfigError
        The path is empty or invalid; `ConfigTypeError` if it is not a path.
    ReportAccessError
        The file cannot be written. An existing file is then unchanged.
    """
    write_file(file_to_write(path, "path", ReportAccessError), content, ReportAccessError)
