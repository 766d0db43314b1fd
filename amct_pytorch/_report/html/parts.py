"""What a page is made of, as data: its content, not its appearance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..figure import Figure
from ..table import Column


@dataclass(frozen=True)
class Card:
    """One quantity before and after, in large type.

    Attributes
    ----------
    label
        The quantity.
    before, after
        Its values, formatted with their unit; ``before`` may be empty.
    change
        The difference or ratio, with what is needed to judge it; may be empty.
    note
        What it was measured on; may be empty.
    doubtful
        Whether the values are not to be trusted, which ``change`` then says in words.
    """

    label: str
    before: str
    after: str
    change: str = ""
    note: str = ""
    doubtful: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar in a cell of a table, in shares of the cell's width.

    Attributes
    ----------
    whole
        Length of the outline, from 0 to 1: the value before.
    part
        Length of the filled part, from 0 to 1: the value after.
    """

    whole: float
    part: float


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes
    ----------
    text
        What is in it.
    value
        What rows are sorted by; None for the text.
    bar
        Drawn below the text; None for no bar.
    """

    text: str
    value: float | None = None
    bar: Bar | None = None


@dataclass(frozen=True)
class Rows:
    """A table that can be sorted by any of its columns.

    Attributes
    ----------
    title
        Shown above it; may be empty.
    columns
        Heading and kind of each column.
    rows
        The cells of each row, one for each column.
    notes
        Paragraphs below it.
    """

    template: ClassVar[str] = "rows"

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    template: ClassVar[str] = "cards"

    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Picture:
    """A figure, with a sentence that says what it shows to who cannot see it."""

    template: ClassVar[str] = "picture"

    figure: Figure
    description: str


@dataclass(frozen=True)
class SmallPicture:
    """A figure among many alike, with what is to be read off it in words."""

    figure: Figure
    title: str
    caption: str


@dataclass(frozen=True)
class SmallPictures:
    """Figures of the same kind, small and side by side."""

    template: ClassVar[str] = "small_pictures"

    pictures: tuple[SmallPicture, ...]


@dataclass(frozen=True)
class Groups:
    """Names grouped by what they have in common.

    Attributes
    ----------
    groups
        (What they have in common, the names) of each group.
    """

    template: ClassVar[str] = "groups"

    groups: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Facts:
    """Values by name."""

    template: ClassVar[str] = "facts"

    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is."""

    template: ClassVar[str] = "code"

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    template: ClassVar[str] = "text"

    text: str


Part = Rows | Cards | Picture | SmallPictures | Groups | Facts | Code | Text
"""What a section may consist of."""


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Attributes
    ----------
    key
        Its place in links within the page, unique in it: "layers".
    title
        The heading.
    parts
        Its content.
    """

    key: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes
    ----------
    language
        Tag of the language that it is written in, by BCP 47: "en", "zh-CN".
    title
        The heading of the page.
    subtitle
        A line below it; may be empty.
    contents
        What the list of sections is called.
    sections
        The sections.
    footer
        The last line.
    data
        Plain data, embedded as JSON, by the name of each block.
    """

    language: str
    title: str
    subtitle: str
    contents: str
    sections: tuple[Section, ...]
    footer: str
    data: Mapping[str, Any]
