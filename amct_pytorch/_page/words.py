"""The words of the page by language. Sentences that reports hold, such as the reasons of a plan, stay in English."""

from __future__ import annotations

from collections.abc import Mapping

from .._report.marks import marked
from .chinese import CHINESE
from .english import ENGLISH

Words = Mapping[str, str]
"""Text by key, in one language; some with places to fill in by `str.format`."""

LANGUAGES: Mapping[str, Words] = {"en": ENGLISH, "zh": CHINESE}
"""The words by the name of the language."""

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
        return f"{mark} {words['wrong']}: {verdict.removeprefix(_WRONG)}"
    return f"{mark} {words.get(verdict, verdict)}"
