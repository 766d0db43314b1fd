"""The manifest of a checkpoint: size and SHA-256 of every file, by which damage is found before anything is loaded.

It has a SHA-256 of its own too, under "sha256"; see `json_text.content_hash`. One of version 1, as earlier releases
wrote it, has none, and nothing else that version 2 has. The hashes protect against damage: files that were cut off,
changed or mixed up. They do not protect against malice: whoever can write to the folder can make them fit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointAccessError, CheckpointError, ConfigError, listed, quoted, shown
from .json_text import HASH, content_hash, is_version, parsed
from .paths import access_errors
from .reading import open_regular, read_small

MANIFEST = "manifest.json"
"""Name of the manifest in the folder of a checkpoint."""

_FORMAT, _VERSION = "amct_pytorch.checkpoint", 2
_KEYS_BEFORE = frozenset({"format", "version", "versions", "tied", "files"})
_KEYS = {1: _KEYS_BEFORE, _VERSION: _KEYS_BEFORE | {"sha256"}}
_CHANGED = "it is damaged, or was changed after it was saved: copy or save the checkpoint again"


@dataclass(frozen=True)
class Manifest:
    """What a manifest says, its form checked.

    Attributes
    ----------
    files
        By name of each file its size under "bytes", and its "sha256".
    tied
        See `weights.save_tensors`.
    """

    files: Mapping[str, Mapping[str, Any]]
    tied: Mapping[str, str]


def write_manifest(folder: Path, tied: Mapping[str, str], versions: Mapping[str, str]) -> None:
    """Describe all files of a folder in one more file.

    Parameters
    ----------
    folder
        Holds the other files, complete.
    tied
        From `weights.save_tensors`.
    versions
        Of what wrote the files, by name of the package.
    """
    files = {path.name: _fingerprint(path.read_bytes()) for path in sorted(folder.iterdir())}
    content = {"format": _FORMAT, "version": _VERSION, "versions": versions, "tied": tied, "files": files}
    text = json.dumps({**content, HASH: content_hash(content)}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. None of the files that it names is opened.

    Raises
    ------
    CheckpointAccessError
        The folder has no manifest, or a file cannot be read.
    CheckpointError
        It is damaged, or of another release.
    """
    path = folder / MANIFEST
    with access_errors(folder, "read", CheckpointAccessError):
        if not os.path.lexists(path):
            what = "no directory" if not folder.is_dir() else f"a directory without {MANIFEST}"
            raise CheckpointAccessError(
                f"{shown(folder)}: expected a checkpoint as save_decomposed writes it, found {what}"
            )
        text = read_small(path, "manifest", kind=CheckpointError, content=CheckpointError)
    found = parsed(text, f"{shown(path)}:", CheckpointError)
    if not isinstance(found, dict) or "files" not in found:
        raise CheckpointError(f"{shown(path)}: expected an object with the key 'files', found another file")
    if found.get("format") != _FORMAT:
        raise CheckpointError(f"{shown(path)}: expected format {_FORMAT!r}, found {quoted(found.get('format'))}")
    version = found.get("version")
    if not is_version(version, _KEYS):
        expected = " or ".join(map(str, _KEYS))
        raise CheckpointError(
            f"{shown(path)}: expected version {expected}, found {quoted(version)}: it was written by another release"
        )
    if found.keys() != _KEYS[version]:
        odd = listed(sorted(found.keys() ^ _KEYS[version]))
        raise CheckpointError(
            f"{shown(path)}: expected the keys {', '.join(sorted(_KEYS[version]))}; {odd} is missing or unknown: "
            f"{_CHANGED}"
        )
    if version == _VERSION:
        _check_same(path, HASH, found[HASH], content_hash(found))
    return Manifest(_checked_files(path, found["files"]), _checked_tied(path, found["tied"]))


def read_verified(folder: Path, manifest: Manifest, wanted: Collection[str]) -> dict[str, bytes]:
    """Check every file that a manifest names; the content of some of them, as it was checked.

    Parameters
    ----------
    folder
        Where the files are.
    manifest
        Its names are those of files that a checkpoint has.
    wanted
        Names of the files whose content is needed; those that the manifest does not have are left out.

    Raises
    ------
    CheckpointAccessError
        A file cannot be read.
    CheckpointError
        A file is missing, no regular one, or not as it was when the manifest was written.
    """
    contents = {}
    with access_errors(folder, "read", CheckpointAccessError):
        for name, expected in manifest.files.items():
            content = _read_verified_file(folder / name, expected)
            if name in wanted:
                contents[name] = content
    return contents


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
            raise ConfigError(f"{shown(place)}: expected a directory or a new one, found a file")
        names = sorted(path.name for path in place.iterdir()) if place.exists() else []
    strangers = [name for name in names if name not in {*known, MANIFEST}]
    if strangers or (names and MANIFEST not in names):
        raise ConfigError(
            f"{shown(place)}: expected a new or empty directory or an earlier checkpoint, found "
            f"{listed(strangers or names)}: "
            "a checkpoint would replace all of it, so give it a directory of its own"
        )


def _checked_files(path: Path, files: object) -> dict[str, dict[str, Any]]:
    if not isinstance(files, dict):
        raise CheckpointError(f"{shown(path)}, files: expected an object, found {type(files).__name__}: {_CHANGED}")
    for name, expected in files.items():
        if (
            not isinstance(expected, dict)
            or expected.keys() != {"bytes", "sha256"}
            or type(expected["bytes"]) is not int
            or not isinstance(expected["sha256"], str)
        ):
            raise CheckpointError(
                f"{shown(path)}, files, {quoted(name)}: expected bytes and sha256, found {quoted(expected)}: {_CHANGED}"
            )
    return files


def _checked_tied(path: Path, tied: object) -> dict[str, str]:
    if not isinstance(tied, dict) or not all(isinstance(name, str) for name in tied.values()):
        raise CheckpointError(f"{shown(path)}, tied: expected names by name, found {quoted(tied)}: {_CHANGED}")
    return tied


def _read_verified_file(path: Path, expected: Mapping[str, Any]) -> bytes:
    """The content of a file. It is read once, so that no other can take its place after the check."""
    try:
        file = open_regular(path, CheckpointError)
    except FileNotFoundError:
        raise CheckpointError(f"{shown(path)}: is missing: the checkpoint is not complete") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        _check_same(path, "bytes", expected["bytes"], size)  # first, as it takes no time and says the most
        content = file.read(size)
    for what, found in _fingerprint(content).items():
        _check_same(path, what, expected[what], found)
    return content


def _check_same(path: Path, what: str, expected: object, found: object) -> None:
    if expected != found:
        raise CheckpointError(f"{shown(path)}: expected {what} {shown(expected)}, found {found}: {_CHANGED}")


def _fingerprint(content: bytes) -> dict[str, object]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
