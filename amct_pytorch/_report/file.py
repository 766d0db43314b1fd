"""The file that a report is saved to."""

from __future__ import annotations

import os

from .._storage.atomic import write_file
from .._storage.paths import file_to_write
from ..errors import ReportAccessError


def write_report(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file that is in place only when it is complete: after an error there is the old one or none.

    Parameters
    ----------
    path
        Of the file; folders that are missing are made.
    content
        All of it.

    Raises
    ------
    ConfigTypeError, ConfigError
        This is no path.
    ReportAccessError
        The file cannot be written.
    """
    write_file(file_to_write(path, "path", ReportAccessError), content, ReportAccessError)
