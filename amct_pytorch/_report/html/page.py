"""A page as the text of an HTML file, by the templates that lie beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import MissingExtra
from .parts import Page
from .svg import drawing

_TEMPLATES = Path(__file__).parent / "templates"


def html_of(page: Page) -> str:
    """A page as HTML that loads nothing: style, script, pictures and data are in it.

    Parameters
    ----------
    page
        The page. Its texts may hold anything; they are escaped.

    Raises
    ------
    MissingExtra
        jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("an HTML page needs jinja2: pip install jinja2") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"drawing": drawing, "embedded": embedded, "percent": _percent}
    return environment.get_template("page.html").render(page=page)


def embedded(data: Any) -> str:
    """Plain data as JSON that can stand within a script element of HTML.

    Parameters
    ----------
    data
        What JSON can hold.
    """
    # A "<" could end the element, or begin a comment; within JSON it occurs in strings alone.
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
