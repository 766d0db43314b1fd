"""Images with text on them, drawn with the font that Pillow ships: inputs for networks that read, with the truth."""

from __future__ import annotations

import importlib
import random
import string
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_CHARACTERS = "".join(sorted(set(string.ascii_lowercase + string.digits) - set("01lo")))
"""Of lines to read: without those that a reader cannot tell apart in this font."""


def extra(name: str) -> ModuleType:
    """Import a module of the extra `real`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"{name} is missing: pip install 'amct_pytorch[real]'") from error


def page(draw: random.Random, width: int, height: int, lines: int, size: tuple[int, int]) -> Tensor:
    """An image (3, height, width) from 0 to 255 with lines of text in random places and sizes."""
    image, pen, paint = _paper(draw, width, height)
    for _ in range(3 * lines):
        ends = [draw.uniform(0, end) for end in (width, height, width, height)]
        pen.line(ends, fill=tuple(draw.randint(100, 220) for _ in range(3)), width=draw.randint(1, 2))
    for line in range(lines):
        text = "".join(draw.choices(string.ascii_letters + string.digits, k=draw.randint(4, 8)))
        font = paint(draw.randint(*size))
        left = draw.uniform(0, width / 5)
        top = (line + draw.uniform(0.05, 0.3)) * height / lines
        for character in text:
            ink = tuple(draw.randint(0, 120) for _ in range(3))
            pen.text((left, top + draw.uniform(-0.05, 0.05) * height / lines), character, fill=ink, font=font)
            left += pen.textlength(character, font=font) * draw.uniform(1.0, 1.25)
    return _pixels(image)


def line(draw: random.Random, width: int, height: int) -> tuple[Tensor, str]:
    """An image (3, height, width) from 0 to 255 with one line of text that fills most of it, and the text."""
    image, pen, paint = _paper(draw, width, height)
    text = "".join(draw.choices(_CHARACTERS, k=draw.randint(6, 10)))
    ink = tuple(draw.randint(0, 110) for _ in range(3))
    size = draw.uniform(0.6, 0.8) * height
    while pen.textlength(text, font=paint(size)) > 0.95 * width:
        size *= 0.95
    place = draw.uniform(0.02, 0.05) * width, height / 2 + draw.uniform(-0.05, 0.05) * height
    pen.text(place, text, fill=ink, font=paint(size), anchor="lm")
    return _pixels(image), text


def _paper(draw: random.Random, width: int, height: int) -> tuple[Any, Any, Any]:
    """An empty image, a pen that draws on it, and the font by size."""
    image_module, draw_module, font_module = (extra(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont"))
    image = image_module.new("RGB", (width, height), tuple(draw.randint(170, 255) for _ in range(3)))
    return image, draw_module.Draw(image), font_module.load_default


def _pixels(image: Any) -> Tensor:
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return values.reshape(image.height, image.width, 3).permute(2, 0, 1).float()
