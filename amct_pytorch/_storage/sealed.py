"""A directory of files that is written as a whole, and read only where every file is as it was written.

A manifest, ``manifest.json``, has size and SHA-256 of each file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointAccessError, CheckpointError, ConfigError
from .atomic import sync_folder_of

MANIFEST = "manifest.json"
_SHOWN = 3


def checked_place(directory: object) -> Path:
    """The path of a directory, links followed.

    Raises
    ------
    ConfigError
        It is no path.
    """
    text = os.fspath(directory) if isinstance(directory, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"directory must be the path of a directory, found {directory!r}")
    return Path(os.path.realpath(text))


def readable_place(place: Path) -> Path:
    """Where the newest whole directory is: elsewhere, if a process was killed between two renames."""
    return _previous_of(place) if not place.exists() and _previous_of(place).exists() else place


def check_replaceable(place: Path, known: Collection[str]) -> None:
    """Check that nothing but an earlier directory with a manifest and files of known names would be lost.

    Raises
    ------
    ConfigError
        There is something else.
    """
    with access_errors_named(place, "written"):
        if place.exists() and not place.is_dir():
            raise ConfigError(f"{place}: expected a directory or a new one, found a file")
        names = sorted(path.name for path in place.iterdir()) if place.exists() else []
    strangers = [name for name in names if name not in {*known, MANIFEST}]
    if strangers or (names and MANIFEST not in names):
        raise ConfigError(
            f"{place}: expected a new or empty directory or an earlier checkpoint, found {listed(strangers or names)}: "
            "a checkpoint would replace all of it, so give it a directory of its own"
        )


@contextlib.contextmanager
def swapped_in(place: Path, about: Mapping[str, Any]) -> Iterator[Path]:
    """A new directory to fill, which takes the place of another when the block ends, and goes if it fails.

    Parameters
    ----------
    place
        Where it is to be.
    about
        What the manifest says besides; may be added to during the block.
    """
    with access_errors_named(place, "written"):
        draft = place.with_name(f".{place.name}.{uuid.uuid4().hex}.tmp")
        previous = _previous_of(place)
        try:
            draft.mkdir(parents=True)
            yield draft
            files = {
                path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size} for path in sorted(draft.iterdir())
            }
            write_text(draft / MANIFEST, json.dumps({**about, "files": files}, indent=2) + "\n")
            _sync(draft)
            if place.exists():
                shutil.rmtree(previous, ignore_errors=True)
                place.rename(previous)
            draft.rename(place)
        except BaseException:
            if previous.exists() and not place.exists():
                previous.rename(place)
            shutil.rmtree(draft, ignore_errors=True)
            raise
        try:
            sync_folder_of(place)
        finally:
            shutil.rmtree(previous, ignore_errors=True)


def read_manifest(place: Path) -> dict[str, Any]:
    """The manifest of a directory, with every file in it as it was written.

    Raises
    ------
    CheckpointAccessError
        There is none, or it cannot be read.
    CheckpointError
        It, or a file that it names, is missing or damaged.
    """
    with access_errors_named(place, "read"):
        path = place / MANIFEST
        if not path.is_file():
            what = "no directory" if not place.is_dir() else f"a directory without {MANIFEST}"
            raise CheckpointAccessError(f"{place}: expected a checkpoint as save_decomposed writes it, found {what}")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: is no valid JSON, perhaps half written: {error}") from error
        files = manifest.get("files") if isinstance(manifest, dict) else None
        if not isinstance(files, dict) or not all(isinstance(seal, dict) for seal in files.values()):
            raise CheckpointError(f"{path}: expected an object with the key 'files', found another file")
        for name, seal in files.items():
            _check_seal(place / name, seal)
    checked: dict[str, Any] = manifest
    return checked


def write_text(path: Path, text: str) -> None:
    """Write text as it is, with the same ends of lines everywhere."""
    path.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def access_errors_named(place: Path, what: str) -> Iterator[None]:
    """Raise a `CheckpointAccessError` where the file system fails."""
    try:
        yield
    except CheckpointAccessError:
        raise
    except OSError as error:
        raise CheckpointAccessError(f"{place}: cannot be {what}: {error}") from error


def listed(names: Collection[str]) -> str:
    """The first few of some names."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, list(names)[:_SHOWN])) + more


def _previous_of(place: Path) -> Path:
    """Where an earlier directory is between two renames, and stays if the process is killed there."""
    return place.with_name(f".{place.name}.previous")


def _check_seal(path: Path, seal: Mapping[str, object]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing: the checkpoint is not complete")
    for what, found in (("bytes", path.stat().st_size), ("sha256", _sha256(path))):
        if seal.get(what) != found:
            raise CheckpointError(
                f"{path}: expected {what} {seal.get(what)}, found {found}: it is damaged, or was changed after it was "
                "saved: copy or save the checkpoint again"
            )


def _sync(folder: Path) -> None:
    """Have what was written on the disk itself."""
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder_of(folder / MANIFEST)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
