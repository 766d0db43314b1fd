"""A hook of mkdocs: join the lines of a Chinese paragraph, as a browser would show a space at each end of a line."""

import re
from typing import Any

# A line's end between two Chinese characters or marks; an indented next line goes on with an item of a list.
_BETWEEN = re.compile(r"(?<=[\u2014-\u201d\u3000-\u9fff\uff00-\uffef])\n *(?=[\u201c\u3001\u3008-\u9fff\uff00-\uffef])")
_CODE = re.compile(r"(^ *```.*?^ *```$)", flags=re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page; blocks of code stay as they are."""
    if not page.file.src_uri.endswith(".zh.md"):
        return markdown
    parts = _CODE.split(markdown)
    return "".join(part if number % 2 else _BETWEEN.sub("", part) for number, part in enumerate(parts))
