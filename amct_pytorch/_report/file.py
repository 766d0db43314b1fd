"""The file that a report is saved to."""

from __future__ import annotations

import os

from .._storage.drafts import checked_place, drafted
from ..errors import ExportAccessError, ReportAccessError


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
    ConfigError
        This is no path.
    ReportAccessError
        The file cannot be written.
    """
    place = checked_place(path, "path")
    try:
        with drafted(place) as folder:
            draft = folder / place.name
            draft.write_bytes(content)
            draft.replace(place)
    except ExportAccessError as error:
        raise ReportAccessError(str(error)) from error.__cause__
