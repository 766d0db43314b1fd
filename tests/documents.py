"""The documents as data: their pages and blocks of code, and how each block says that it is tested."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md") if not page.name.endswith(".zh.md"))

# A block of code, and what a comment in the line before it says of how it is tested:
#   <!-- test: needs PACKAGE, PACKAGE -->   run by the slow tests, where these packages are installed
#   <!-- test: recipe, NAME -->             run by test_recipes.py, with a network and data for it
#   <!-- test: not run, REASON -->          only compiled, and the names that it imports from us must exist
_BLOCK = re.compile(r"(?:^<!-- test: (.*?) -->\n)?^( *)```(\w+)\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)
_NEEDS = re.compile(r"needs ([\w, ]+)")
_ELSEWHERE = re.compile(r"recipe, (\w+)|not run, .{5,}")


@dataclass(frozen=True)
class Block:
    """A block of code, and the mark before it, empty where there is none."""

    language: str
    code: str
    mark: str

    @property
    def needs(self) -> list[str]:
        found = _NEEDS.fullmatch(self.mark)
        return found[1].split(", ") if found else []

    @property
    def recipe(self) -> str | None:
        found = _ELSEWHERE.fullmatch(self.mark)
        return found[1] if found else None

    @property
    def runs_with_its_page(self) -> bool:
        return not _ELSEWHERE.fullmatch(self.mark)


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks_of(markdown: str) -> list[Block]:
    return [
        Block(language, "".join(line[len(indent) :] for line in code.splitlines(keepends=True)), mark)
        for mark, indent, language, code in _BLOCK.findall(markdown)
    ]


def python_of(page: str) -> list[Block]:
    return [block for block in blocks_of(text(page)) if block.language == "python"]


def recipes() -> dict[str, str]:
    """The code of the recipes that are tested one by one, by name."""
    return {block.recipe: block.code for block in python_of("recipes.md") if block.recipe}
