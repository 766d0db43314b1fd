"""The links of the documents, read in the repository: files and headings exist, in the reader's language."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from .documents import DOCS, ROOT

_DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
_BLOCK = re.compile(r"^ *```.*?^ *```$", flags=re.DOTALL | re.MULTILINE)


@functools.cache
def _sentences(document: Path) -> str:
    return re.sub(r"(?<!`)`[^`]+`", "code", _BLOCK.sub("", document.read_text(encoding="utf-8")))


@functools.cache
def _anchors(document: Path) -> set[str]:
    """Those of its headings, by the rule of GitHub and of the site."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", document.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_of_a_document_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)]*)\)", _sentences(document)):
        assert not re.search(r"\s", link), f"{link!r} is broken by the end of a line"
        path, _, anchor = link.partition("#")
        if re.match(r"https?:", path):
            continue
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("document", [path for path in _DOCUMENTS if "zh" in path.name], ids=lambda path: path.name)
def test_a_chinese_document_leads_to_chinese_ones(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]*\.md)", _sentences(document)):
        target = (document.parent / link).resolve()
        chinese = target.with_suffix(".zh.md")
        assert target.name.endswith(".zh.md") or not chinese.exists(), link
