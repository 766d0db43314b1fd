"""Sentences of reports in the language of the page: matched by their templates, what is filled in stays.

Reports hold them in English, so that a saved one says the same to everybody.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

_PLACE = re.compile(r"\{(\w+)\}")

# What a place holds: mostly anything. Single words, so that a template with little text of its own does not match any
# sentence; and the ending of a plural, which is left out.
_WORD, _ANYTHING = "[^ ]+", ".+?"
_HELD = {**dict.fromkeys(("count", "kind", "method", "operator"), _WORD), "plural": "(?:e?s)?"}

# What is between sentences that were put together, and what is behind one: the methods that it is said of.
_JOINT = "; "
_OF_METHODS = re.compile(r"(?P<sentence>.+) \((?P<methods>[\w, ]+)\)", re.DOTALL)

# Different numbers in few words, see `plan.reasons.common_reasons`.
_SPAN = re.compile(r"[\d.,]+ to [\d.,]+|[\d×]+(?:, [\d×]+)*(?: or [\d×]+| and so on)")
_IN_SPANS = {" to ": " 至 ", " or ": " 或 ", ", ": "、", " and so on": " 等"}


def in_language(text: str, sentences: Mapping[str, str]) -> str:
    """A text of a report in another language; a sentence that has no form there stays as it is.

    Parameters
    ----------
    text
        One sentence or several, put together by semicolons.
    sentences
        Templates in the other language by the templates in English; none for English itself.
    """
    if not sentences:
        return text
    forms = _forms(tuple(sentences.items()))
    return "；".join(_sentence(part, forms) for part in text.split(_JOINT))


Forms = tuple[tuple[re.Pattern[str], str], ...]


def _sentence(text: str, forms: Forms) -> str:
    for pattern, form in forms:
        found = pattern.fullmatch(text)
        if found:
            return form.format(**{name: _filled_in(value, forms) for name, value in found.groupdict().items()})
    found = _OF_METHODS.fullmatch(text)
    if found and (sentence := _sentence(found["sentence"], forms)) != found["sentence"]:
        return f"{sentence}（{found['methods']}）"
    return text


def _filled_in(value: str, forms: Forms) -> str:
    if _SPAN.fullmatch(value):
        return functools.reduce(lambda text, words: text.replace(*words), _IN_SPANS.items(), value)
    return _sentence(value, forms)


@functools.cache
def _forms(sentences: tuple[tuple[str, str], ...]) -> Forms:
    """What each template matches, and its other form; those with the most text of their own first."""
    by_text = sorted(sentences, key=lambda pair: -len(_PLACE.sub("", pair[0])))
    return tuple((_pattern(template), form) for template, form in by_text)


def _pattern(template: str) -> re.Pattern[str]:
    *texts_and_names, last = _PLACE.split(template)
    pairs = zip(texts_and_names[::2], texts_and_names[1::2], strict=True)
    places = (f"{re.escape(text)}(?P<{name}>{_HELD.get(name, _ANYTHING)})" for text, name in pairs)
    return re.compile("".join(places) + re.escape(last), re.DOTALL)
