"""Damage to files: of their bytes, and of the values in a tree of lists and objects."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any


def damaged_bytes(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Bytes changed at random, and how.

    Parameters
    ----------
    content
        Of a file.
    draw
        Chooses what is done, and where.
    """
    kind = draw.choice(
        ["flip", "flip", "many flips", "truncate", "extend", "zeros", "swap", "repeat", "noise", "empty"]
    )
    found = bytearray(content)
    at = draw.randrange(len(found))
    length = draw.randint(1, max(len(found) // 4, 1))
    if kind == "flip":
        found[at] ^= 1 << draw.randrange(8)
    elif kind == "many flips":
        for _ in range(8):
            found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    elif kind == "truncate":
        del found[at:]
    elif kind == "extend":
        found += draw.randbytes(length)
    elif kind == "zeros":
        found[at : at + length] = bytes(len(found[at : at + length]))
    elif kind == "swap":
        other = draw.randrange(len(found))
        found[at], found[other] = found[other], found[at]
    elif kind == "repeat":
        found[at:at] = found[at : at + length]
    elif kind == "noise":
        found[at : at + length] = draw.randbytes(len(found[at : at + length]))
    else:
        found.clear()
    return bytes(found), f"{kind} at {at}"


def _deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


HOSTILE: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: False,
    lambda: -1,
    lambda: 0,
    lambda: 1,
    lambda: 10**12,
    lambda: -(10**400),
    lambda: 10**4000,
    lambda: 1.0,
    lambda: 64.0,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: "",
    lambda: "first",
    lambda: "ｆirst",  # a full-width letter
    lambda: "first\u200b",
    lambda: "fi\u0000rst\nsecond: fine\r\x1b[2J",
    lambda: "\u202etsrif",
    lambda: "\ud800",
    lambda: "x" * 100_000,
    lambda: "../../secret",
    lambda: "/dev/zero",
    lambda: "re:(",
    list,
    dict,
    lambda: [None],
    lambda: [3, 3],
    lambda: [64] * 1000,
    lambda: {"x" * 3000: {"y": 1}},
    lambda: _deep(90),
    lambda: {"policy": ["EvbmfRank"]},
    lambda: {"policy": "FixedRank", "ranks": {"first": 10**12}},
]
"""Makes each of the values that are put in place of others."""


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a tree."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in inside for place in [(*path, key), *_places(value, (*path, key))]]


def _holder(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


def damaged_tree(tree: Any, draw: random.Random, more: Sequence[Callable[[], Any]] = ()) -> tuple[Any, str]:
    """A copy of a tree with a value replaced, removed, renamed, repeated, or swapped with another; and how.

    Parameters
    ----------
    tree
        Lists and dicts of values.
    draw
        Chooses what is done, and where.
    more
        Makes values to put in besides the hostile ones.
    """
    tree = copy.deepcopy(tree)
    places = _places(tree)
    path = draw.choice(places)
    holder, key = _holder(tree, path), path[-1]
    kind = draw.choice(["replace", "replace", "replace", "remove", "rename", "add", "swap", "swap alike"])
    if kind == "replace":
        holder[key] = draw.choice([*HOSTILE, *more])()
    elif kind == "remove":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw.choice([str(key).upper(), f"{key} ", f"{key}\u200b", "", "x" * 100_000])] = holder.pop(key)
    elif kind == "add":
        value = draw.choice([*HOSTILE, *more])() if draw.random() < 0.5 else copy.deepcopy(holder[key])
        if isinstance(holder, dict):
            holder[f"{key}2"] = value
        else:
            holder.append(value)
    else:
        alike = [other for other in places if other[-1] == key] if kind == "swap alike" else places
        other = draw.choice(alike)
        # Neither may be inside the other.
        if other[: len(path)] != path and path[: len(other)] != other:
            there = _holder(tree, other)
            holder[key], there[other[-1]] = there[other[-1]], holder[key]
    return tree, f"{kind} at {'/'.join(map(str, path))[:100]}"
