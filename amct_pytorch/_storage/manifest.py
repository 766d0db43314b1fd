"""The manifest of a checkpoint: size and SHA-256 of every file, to detect damage before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointAccessError, CheckpointError, ConfigError, listed
from .paths import access_errors

MANIFEST = "manifest.json"
"""Name of the manifest in the folder of a checkpoint."""


def write_manifest(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the manifest of all files in a folder.

    Parameters
    ----------
    folder
        Has all other files, complete.
    about
        Further content of the manifest, values that JSON can express by key; not the key "files".
    """
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    text = json.dumps({**about, "files": files}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder, and verify size and hash of every file that it lists.

    Parameters
    ----------
    folder
        A folder that `write_manifest` was called on.

    Raises
    ------
    CheckpointAccessError
        The folder has no manifest, or a file cannot be read.
    CheckpointError
        The manifest is invalid, or a file that it lists is missing or damaged.
    """
    with access_errors(folder, "read", CheckpointAccessError):
        path = folder / MANIFEST
        if not path.is_file():
            what = "no directory" if not folder.is_dir() else f"a directory without {MANIFEST}"
            raise CheckpointAccessError(f"{folder}: expected a checkpoint as save_decomposed writes it, found {what}")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: is no valid JSON, perhaps half written: {error}") from error
        files = manifest.get("files") if isinstance(manifest, dict) else None
        if not isinstance(files, dict) or not all(isinstance(expected, dict) for expected in files.values()):
            raise CheckpointError(f"{path}: expected an object with the key 'files', found another file")
        for name, expected in files.items():
            _check_file(folder / name, expected)
    checked: dict[str, Any] = manifest
    return checked


def check_replaceable(place: Path, known: Collection[str]) -> None:
    """Check that replacing a folder would delete nothing but an earlier checkpoint.

    Parameters
    ----------
    place
        Path of the new checkpoint.
    known
        Names of the files of a checkpoint, without the manifest.

    Raises
    ------
    ConfigError
        The path is a file, or a folder with other content.
    CheckpointAccessError
        The folder cannot be read.
    """
    with access_errors(place, "written", CheckpointAccessError):
        if place.exists() and not place.is_dir():
            raise ConfigError(f"{place}: expected a directory or a new one, found a file")
        names = sorted(path.name for path in place.iterdir()) if place.exists() else []
    strangers = [name for name in names if name not in {*known, MANIFEST}]
    if strangers or (names and MANIFEST not in names):
        raise ConfigError(
            f"{place}: expected a new or empty directory or an earlier checkpoint, found {listed(strangers or names)}: "
            "a checkpoint would replace all of it, so give it a directory of its own"
        )


def _check_file(path: Path, expected: Mapping[str, object]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing: the checkpoint is not complete")
    for what, found in _fingerprint(path).items():
        if expected.get(what) != found:
            raise CheckpointError(
                f"{path}: expected {what} {expected.get(what)}, found {found}: it is damaged, or was changed after it "
                "was saved: copy or save the checkpoint again"
            )


def _fingerprint(path: Path) -> dict[str, object]:
    """Size and hash of a file; the size first, as it makes the clearest message for a truncated file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
