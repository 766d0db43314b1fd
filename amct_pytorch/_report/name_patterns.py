"""Many names of layers in few words: ``layer1.[01].conv[12]`` for four. Pure: names in, patterns out."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# What patterns are written with: a name that has one of these stands for itself alone.
_SPECIAL = frozenset("[]{},")

# A number as it is written in a range; longer ones, and such as 01, are words.
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")


_Product = tuple[tuple[str, ...], ...]
"""Alternatives for each part of a name; it stands for every combination."""


@dataclass(frozen=True)
class NamePattern:
    """Names that differ in some of their parts, in every combination.

    Attributes
    ----------
    text
        The pattern: ``[01]`` is one of these characters, ``{q,out}`` one of these words, ``{0..11}`` a number from the
        first to the last; what it expands to are the names, and nothing else.
    names
        The names.
    """

    text: str
    names: tuple[str, ...]


def patterns_of(names: Sequence[str]) -> list[NamePattern]:
    """Few patterns that together expand to exactly the names given, each name by one of them.

    Parameters
    ----------
    names
        Names of layers, all different, with dots between their parts.

    Returns
    -------
    list
        In the order of the first name of each.
    """
    plain = [name for name in names if not _SPECIAL & set(name)]
    products: list[_Product] = [tuple((part,) for part in name.split(".")) for name in plain]
    longest = max(map(len, products), default=0)
    # A product of sets of parts stays one if two that differ in a single set are united; the last part varies first.
    for position in reversed(range(longest)):
        products = _united(products, position)
    patterns = [NamePattern(".".join(map(_alternatives, product)), _expanded(product)) for product in products]
    patterns += [NamePattern(name, (name,)) for name in names if _SPECIAL & set(name)]
    place = {name: number for number, name in enumerate(names)}
    return sorted(patterns, key=lambda pattern: min(place[name] for name in pattern.names))


def _united(products: Iterable[_Product], position: int) -> list[_Product]:
    """The products, with those united that differ at this position only."""
    alike: dict[tuple[_Product, _Product, str], list[str]] = defaultdict(list)
    united = []
    for product in products:
        if position < len(product):
            # Words that have nothing in common, with nothing before or behind them, are no shorter as one.
            letters = re.sub(r"\d+", "#", product[0][0]) if len(product) == 1 else ""
            alike[product[:position], product[position + 1 :], letters] += product[position]
        else:
            united.append(product)
    return united + [(*before, tuple(parts), *after) for (before, after, _), parts in alike.items()]


def _expanded(product: _Product) -> tuple[str, ...]:
    names = [""]
    for number, parts in enumerate(product):
        names = [f"{name}{'.' * (number > 0)}{part}" for name in names for part in parts]
    return tuple(names)


def _alternatives(parts: tuple[str, ...]) -> str:
    """One text for several parts of a name."""
    if len(parts) == 1:
        return parts[0]
    start = _common_start(parts).rstrip("0123456789")  # a number is not taken apart
    rest = [part[len(start) :] for part in parts]
    end = _common_start([part[::-1] for part in rest])[::-1].lstrip("0123456789")
    middles = [part[: len(part) - len(end)] for part in rest]
    if all(len(middle) == 1 for middle in middles):
        return f"{start}[{''.join(middles)}]{end}"
    return f"{start}{{{_listed(middles)}}}{end}"


def _common_start(words: Sequence[str]) -> str:
    alike = itertools.takewhile(lambda chars: len(set(chars)) == 1, zip(*words, strict=False))
    return "".join(chars[0] for chars in alike)


def _listed(words: Sequence[str]) -> str:
    """Words with commas between them, and runs of numbers as the first and the last: ``0..11``."""
    if not all(_NUMBER.fullmatch(word) for word in words):
        return ",".join(words)
    runs: list[list[int]] = []
    for number in sorted(map(int, words)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)
