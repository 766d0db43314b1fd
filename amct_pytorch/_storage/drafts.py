"""Make files and folders beside their place, so that what is there is complete or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError, ExportAccessError


def checked_place(path: object, called: str) -> Path:
    """The place that a path means, links followed.

    Raises
    ------
    ConfigError
        It is no path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"{called} must be a path, found {path!r}")
    return Path(os.path.realpath(text))


@contextlib.contextmanager
def drafted(place: Path) -> Iterator[Path]:
    """A folder beside a place to make things in, which is gone afterwards, whatever happens.

    Folders above the place are made, and those of them that stay empty are gone too.

    Raises
    ------
    ExportAccessError
        Something in the block, or the folder itself, cannot be written.
    """
    made: list[Path] = []
    draft = place.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        for folder in reversed([folder for folder in (draft, *draft.parents) if not folder.exists()]):
            made.append(folder)
            folder.mkdir()
        yield draft
    except OSError as error:
        if isinstance(error, ExportAccessError):
            raise
        raise ExportAccessError(f"{place}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # it holds what was made
                folder.rmdir()
