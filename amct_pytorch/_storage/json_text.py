"""JSON documents that may be anything: read strictly, and hashed by their content."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, TypeGuard

from ..errors import quoted

HASH = "sha256"
"""The key under which a document has the hash of all that is in it besides."""


def parsed(text: str | bytes, where: str, error: type[ValueError]) -> Any:
    """The document that a text is.

    Parameters
    ----------
    text
        Content of a file.
    where
        How messages begin: the path of the file with a colon, or "the file".
    error
        What to raise where it is no JSON, has a number that JSON has not, or a key twice in one object.
    """

    def reject_constant(name: str) -> NoReturn:
        raise error(f"{where} holds {name}, which is no JSON number")

    def without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise error(f"{where} gives the key {quoted(twice)} twice in one object")
        return mapping

    try:
        return json.loads(text, parse_constant=reject_constant, object_pairs_hook=without_duplicates)
    except error:
        raise
    except (ValueError, RecursionError) as failure:
        # Also numbers of thousands of digits, and brackets nested thousands deep.
        raise error(f"{where} is no valid JSON, perhaps half written: {failure}") from failure


def content_hash(document: Mapping[str, Any]) -> str:
    """The SHA-256 of a document without its own hash: as JSON with sorted keys and no spaces.

    It finds damage, and changes made by hand. It does not protect against malice: whoever changes a document can give
    it a hash that fits, or make it one of a version that has none.

    Parameters
    ----------
    document
        Plain data: what JSON can hold.
    """
    rest = {key: value for key, value in document.items() if key != HASH}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_version(value: object, known: Collection[int]) -> TypeGuard[int]:
    """Whether a value is one of the versions that are known: the number itself, and not what merely equals it."""
    return type(value) is int and value in known
