"""The words of the page by language, and the sentences that reports hold."""

from __future__ import annotations

from collections.abc import Mapping

from .._report.marks import marked
from .chinese import CHINESE
from .chinese_sentences import CHINESE_SENTENCES
from .english import ENGLISH
from .sentences import in_language

Words = Mapping[str, str]
"""Text by key, in one language; some with places to fill in by `str.format`."""

LANGUAGES: Mapping[str, Words] = {"en": ENGLISH, "zh": CHINESE}
"""The words by the name of the language."""

_SENTENCES: Mapping[str, Mapping[str, str]] = {ENGLISH["language"]: {}, CHINESE["language"]: CHINESE_SENTENCES}

_WRONG = "wrong: "


def verdict_in(verdict: str, words: Words) -> str:
    """A verdict of a report in a language, with its mark.

    Parameters
    ----------
    verdict
        "faster", "right", "wrong: …", and so on.
    words
        The language.
    """
    mark = marked(verdict)[:1]
    if verdict.startswith(_WRONG):
        return f"{mark} {words['wrong']}{words['colon']}{said(verdict.removeprefix(_WRONG), words)}"
    return f"{mark} {words.get(verdict, verdict)}"


def said(text: str, words: Words) -> str:
    """What a report says in English, in a language.

    Parameters
    ----------
    text
        A reason or a note of a report.
    words
        The language.
    """
    return in_language(text, _SENTENCES[words["language"]])
