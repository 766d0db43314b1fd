"""Reasons that layers have in common, as one line for all of them. Pure: reasons in, words out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

# What a budget adds to the reason for a layer: what its next better and next cheaper choices would change.
_NEIGHBOURS = re.compile(r"; next (?:better|cheaper): .*", re.DOTALL)

# A number with thousands separators or a decimal point, or sizes such as 3×3. What is quoted, and digits of words and
# of dotted names, are no numbers.
_NUMBER = re.compile(r"'[^']*'|\"[^\"]*\"|(?<![\w.])(\d+(?:[.,]\d+)*(?:×\d+)*)(?!\w)")

# Sizes that are named where layers differ in them.
_MOST_SIZES = 3


def essence(reason: str) -> str:
    """A reason without what other choices would cost.

    Parameters
    ----------
    reason
        As in `LayerPlan`.
    """
    return _NEIGHBOURS.sub("", reason)


def common_reasons(reasons: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Reasons that differ in numbers only as one, with the range of the numbers, and the layers that have it.

    Parameters
    ----------
    reasons
        By name of the layer.

    Returns
    -------
    list
        (reason, names) in the order of the first name of each.
    """
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        alike[tuple(_split(reason)[0])].append(name)
    return [(_with_ranges([reasons[name] for name in names]), names) for names in alike.values()]


def _split(reason: str) -> tuple[list[str], list[str]]:
    """The text between the numbers of a reason, and the numbers."""
    texts, numbers, end = [], [], 0
    for found in _NUMBER.finditer(reason):
        if found[1] is not None:
            texts.append(reason[end : found.start()])
            numbers.append(found[1])
            end = found.end()
    return [*texts, reason[end:]], numbers


def _with_ranges(reasons: Sequence[str]) -> str:
    texts = _split(reasons[0])[0]
    columns = zip(*(_split(reason)[1] for reason in reasons), strict=True)
    spans = [_span(list(dict.fromkeys(numbers))) for numbers in columns]
    return "".join(text + span for text, span in zip(texts, [*spans, ""], strict=True))


def _span(numbers: Sequence[str]) -> str:
    """Different numbers in few words: "1 to 48", or of sizes "1×1, 1×3 or 3×1"."""
    if len(numbers) == 1:
        return numbers[0]
    if any("×" in number for number in numbers):
        if len(numbers) > _MOST_SIZES:
            return f"{', '.join(numbers[:_MOST_SIZES])} and so on"
        return f"{', '.join(numbers[:-1])} or {numbers[-1]}"
    by_size = sorted(numbers, key=lambda number: float(number.replace(",", "")))
    return f"{by_size[0]} to {by_size[-1]}"
