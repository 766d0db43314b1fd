"""The journal of a search: a line for each evaluation, on disk before the next begins, so that none is repeated.

A text file with a JSON document in each line, each with a hash of its own. The first says what the evaluations depend
on: the model and the settings.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from ..._run.interrupts import interrupts_deferred
from ..._storage.drafts import sync_folder
from ..._storage.json_text import HASH, content_hash, is_version, parsed
from ..._storage.paths import access_errors, file_to_write
from ..._storage.records import from_plain, to_plain
from ...errors import (
    JournalAccessError,
    JournalError,
    PlanFileAccessError,
    PlanFileError,
    quoted,
    shown,
    warn_user,
)
from ..plan.plan import DecompositionPlan, load_plan

if sys.platform != "win32":
    import fcntl

_FORMAT, _VERSION = "amct_pytorch.search_journal", 1

# Largest file that is read, in bytes: far larger than a journal of the largest models, far smaller than the memory.
_LARGEST = 64 * 2**20


@dataclass(frozen=True)
class Record:
    """An evaluation, as the journal has it.

    Attributes
    ----------
    share
        The budget, as a share of what the original takes; 1 for the original itself.
    cost
        What the plan takes, as a share of that too.
    score
        What the user's function returned.
    seconds
        How long it took to plan and to evaluate.
    plan
        See `scoring.mark_of`.
    """

    share: float
    cost: float
    score: float
    seconds: float
    plan: str


class Journal:
    """An open journal.

    Parameters
    ----------
    earlier
        The evaluations that it had when it was opened.
    file
        That it is written to; None for nowhere.
    place
        Path of the file.
    head
        The first line, if that is still to be written.
    """

    def __init__(
        self, earlier: list[Record], file: FileIO | None = None, place: Path | None = None, head: bytes = b""
    ) -> None:
        self.earlier = earlier
        self._file, self._place, self._head = file, place, head

    def add(self, record: Record, best: DecompositionPlan | None) -> None:
        """Write an evaluation, and wait until it is on the disk.

        Parameters
        ----------
        record
            What was evaluated.
        best
            Its plan, if that is now the cheapest accepted; it takes the place of an earlier one.
        """
        if self._file is None or self._place is None:
            return
        with interrupts_deferred(), access_errors(self._place, "written", JournalAccessError):
            if best is not None:  # first, so that a record never names a plan that was not written
                best.save(_plan_beside(self._place))
            lines = self._head + _document(to_plain(record))
            if self._file.write(lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
            if self._head:
                sync_folder(self._place.parent)
            self._head = b""

    def best(self) -> DecompositionPlan | None:
        """The cheapest plan that was written; None where there is none that can be read."""
        if self._place is not None:
            with contextlib.suppress(PlanFileError, PlanFileAccessError):  # it is made anew
                return load_plan(_plan_beside(self._place))
        return None


@contextlib.contextmanager
def opened(path: str | os.PathLike[str] | None, about: Mapping[str, Mapping[str, str]]) -> Iterator[Journal]:
    """The journal at a path; it is this process's alone until the block ends.

    Where there is none it is begun with the first evaluation, so that an error before leaves no file behind.

    Parameters
    ----------
    path
        Of the file; None for a journal that is not written.
    about
        What evaluations depend on: for each kind of thing, such as "model", values by name.

    Raises
    ------
    ConfigTypeError, ConfigError
        The path is none.
    JournalAccessError
        The file cannot be read or written, or another search is writing it.
    JournalError
        It is no journal, damaged, or of a search for another model or with other settings.
    """
    if path is None:
        yield Journal([])
        return
    place = file_to_write(path, "journal", JournalAccessError)
    missing = [item for item in (place, *place.parents) if not item.exists()]
    with access_errors(place, "written", JournalAccessError):
        place.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer, whose content would be written again at the end where it could not be.
        file = place.open("a+b", buffering=0)
    with file:
        try:
            yield _read(file, place, about)
        finally:
            if missing and not os.fstat(file.fileno()).st_size:
                with contextlib.suppress(OSError):
                    place.unlink()
                    for folder in missing[1:]:
                        folder.rmdir()


def _read(file: FileIO, place: Path, about: Mapping[str, Mapping[str, str]]) -> Journal:
    """The journal that a file has, if it is of this search; what was not written to its end is removed from it."""
    _lock(file, place)
    with access_errors(place, "read", JournalAccessError):
        file.seek(0)
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise JournalError(f"{shown(place)}: expected a journal of {_LARGEST} bytes at most, found a larger file")
    head = _document({"format": _FORMAT, "version": _VERSION, **about})
    if len(content) < len(head) and head.startswith(content):  # it is new, or was killed as it was begun
        whole, records = b"", []
    else:
        whole = content[: content.rfind(b"\n") + 1]
        first, *lines = whole.splitlines(keepends=True) or [content]
        _check_is_journal(first, place)
        records = [
            from_plain(Record, _checked(line, number, place), f"{shown(place)}: line {number}", JournalError)
            for number, line in enumerate(lines, 2)
        ]
        _check_same_search(_checked(first, 1, place), about, place)
        if len(whole) < len(content):
            warn_user(
                f"{shown(place)}: the last line was not written to its end, as the search was killed meanwhile: that "
                "evaluation is repeated"
            )
    if len(whole) < len(content):
        with access_errors(place, "written", JournalAccessError):
            file.truncate(len(whole))
    return Journal(records, file, place, b"" if whole else head)


def _plan_beside(place: Path) -> Path:
    return place.with_name(f"{place.name}.plan")


def _lock(file: FileIO, place: Path) -> None:
    """Lock a file for this process, as long as the file is open; processes that it forks do not keep the lock."""
    if sys.platform == "win32":
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise JournalAccessError(
            f"{shown(place)}: another search is writing this journal: wait for its end, or give another path"
        ) from error
    except OSError:  # a file system without locks
        return


def _document(content: Mapping[str, object]) -> bytes:
    return json.dumps({**content, HASH: content_hash(content)}, allow_nan=False).encode() + b"\n"


def _check_is_journal(line: bytes, place: Path) -> None:
    """Check that the first line of a file is that of a journal."""
    first = None
    with contextlib.suppress(JournalError):
        first = parsed(line, shown(place), JournalError)
    if not isinstance(first, dict) or first.get("format") != _FORMAT:
        raise JournalError(
            f"{shown(place)}: expected a journal as search_decomposition writes it, found another file: give the path "
            "of a journal, or of a new file"
        )
    if not is_version(first.get("version"), [_VERSION]):
        raise JournalError(
            f"{shown(place)}: expected version {_VERSION}, found {quoted(first.get('version'))}: it was written by "
            "another release: give another path"
        )


def _checked(line: bytes, number: int, place: Path) -> dict[str, object]:
    """The content of a line, if it is as it was written."""
    where = f"{shown(place)}: line {number}"
    content = parsed(line, where, JournalError)
    if not isinstance(content, dict) or content.get(HASH) != content_hash(content):
        raise JournalError(
            f"{where}: its hash is not that of its content: the journal is damaged, or was changed: remove the lines "
            "from this one on to repeat their evaluations, or give another path"
        )
    return {key: value for key, value in content.items() if key != HASH}


def _check_same_search(first: Mapping[str, object], about: Mapping[str, Mapping[str, str]], place: Path) -> None:
    """Check that a journal is of this model and these settings."""
    for kind, own in about.items():
        there = first.get(kind)
        if not isinstance(there, dict):
            raise JournalError(f"{shown(place)}: line 1, {kind}: expected an object, found {quoted(there)}")
        for name in [*own, *there]:
            if own.get(name) != there.get(name):
                raise JournalError(
                    f"{shown(place)}: the journal is of another search: {kind}, {name}: "
                    f"{shown(there.get(name, 'none'))} there, {shown(own.get(name, 'none'))} in this call: search with "
                    "the same model and settings, or give another path"
                )
