"""Pretrained networks whose weights lie inside Python packages, with inputs drawn for them and a figure of merit.

They come with the extra `real`. Nothing is downloaded, nothing of theirs is in this repository, and no data set is
needed: what is written on a drawn image is known, and a detector is compared with the original.

ddddocr is under the MIT licence, rapidocr-onnxruntime and the PP-OCR networks in it under Apache-2.0, and so are the
converters (onnx, onnx2torch); Pillow, whose font the images are drawn with, is under MIT-CMU.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from drawings import extra, line, page

# Of the original's detections, what counts as one: the thresholds that the packages use.
_THRESHOLD_OF_CHARACTERS = 0.1
_THRESHOLD_OF_TEXT = 0.3
_SIDE_OF_CAPTCHAS = 416
_SIDE_OF_PAGES = 320
# Height and width of lines: the networks ask for the heights, and text of ten characters fits.
_CAPTCHA_LINES = (64, 256)
_LINES = (48, 192)
# The statistics of ImageNet that the inputs of PP-OCR's detector are standardised by.
_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
_SPREAD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


class Drawn(NamedTuple):
    """Drawn inputs.

    Attributes
    ----------
    inputs
        Tensor (n, channels, height, width).
    truth
        What is right for each: the text on it, or the name of its class; empty where only the original knows.
    """

    inputs: Tensor
    truth: tuple[str, ...] = ()


@dataclass(frozen=True)
class RealNetwork:
    """A pretrained network.

    Attributes
    ----------
    load
        Gives the network, in eval mode.
    draw
        Called with a number of images and a seed; gives inputs and what is right.
    score
        In percent, higher is better: from the network's outputs, those of the original, and what is right.
    figure
        What the score is of.
    rule
        Which layers AMCT's choice of ranks is tried on; see `DecompositionConfig`. By the rule "amct" there would be
        none in narrow networks.
    images
        Enough to fit factors to.
    """

    load: Callable[[], nn.Module]
    draw: Callable[[int, int], Drawn]
    score: Callable[[Tensor, Tensor, Sequence[str]], float]
    figure: str
    rule: Literal["amct", "any"]
    images: int = 16


def package_file(package: str, file: str) -> Path:
    """A file inside a package, which is found and not imported: the package itself would load its own runtime."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is missing: pip install 'amct_pytorch[real]'")
    return Path(spec.origin).parent / file


def _loaded(package: str, file: str) -> Any:
    return extra("onnx").load(str(package_file(package, file)))


def _converted(graph: Any) -> nn.Module:
    """The network of a loaded ONNX file."""
    import_vision()
    _say_that_normalised_are_images(graph)
    constants = [node for node in graph.graph.node if node.op_type == "Constant"]
    for node in constants:  # PP-OCR keeps its weights in these, where onnx2torch does not look
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.graph.initializer.append(tensor)
        graph.graph.node.remove(node)
    network: nn.Module = extra("onnx2torch").convert(graph)
    return network.eval()


def _say_that_normalised_are_images(graph: Any) -> None:
    """Fill in the rank of what is normalised, where PP-OCR's files leave it out: onnx2torch must know it."""
    helper, kinds = extra("onnx.helper"), extra("onnx").TensorProto
    normalised = {node.input[0] for node in graph.graph.node if node.op_type == "BatchNormalization"}
    others = [one for one in graph.graph.value_info if one.name not in normalised]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(others)
    images = [helper.make_tensor_value_info(name, kinds.FLOAT, [None] * 4) for name in sorted(normalised)]
    graph.graph.value_info.extend(images)


@functools.cache
def import_vision() -> torch.library.Library | None:
    """Import torchvision, also where its compiled operators do not load: it asks for two of them by name."""
    try:
        extra("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # what was imported of it so far
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library  # which takes its definitions with it
    return None


class _CaptchaReader(nn.Module):
    """ddddocr's reader: convolutions, an LSTM along the line both ways, and a dense layer over the characters.

    onnx2torch has no LSTM, so the file is cut in front of it, and torch's own takes its weights.
    """

    def __init__(self) -> None:
        super().__init__()
        graph = _loaded("ddddocr", "common.onnx")
        to_array = extra("onnx.numpy_helper").to_array
        weights = {one.name: torch.from_numpy(to_array(one).copy()) for one in graph.graph.initializer}
        nodes = {node.op_type: node for node in graph.graph.node}
        lstm, dense = nodes["LSTM"], nodes["Gemm"]
        over_inputs, over_states, biases = (weights[name] for name in lstm.input[1:4])
        width = over_states.shape[2]
        self.lstm = nn.LSTM(over_inputs.shape[2], width, bidirectional=True)
        with torch.no_grad():
            for direction, suffix in enumerate(("_l0", "_l0_reverse")):
                ours = {
                    "weight_ih": over_inputs[direction],
                    "weight_hh": over_states[direction],
                    "bias_ih": biases[direction][: 4 * width],
                    "bias_hh": biases[direction][4 * width :],
                }
                for name, value in ours.items():
                    into, out_of, forget, cell = value.split(width)  # ONNX's order of the gates; torch's follows
                    getattr(self.lstm, name + suffix).copy_(torch.cat([into, forget, cell, out_of]))
            self.characters = nn.Linear(2 * width, len(weights[dense.input[2]]))
            self.characters.weight.copy_(weights[dense.input[1]])
            self.characters.bias.copy_(weights[dense.input[2]])
        cut = next(number for number, node in enumerate(graph.graph.node) if node.op_type == "Transpose")
        features = graph.graph.node[cut].input[0]
        del graph.graph.node[cut:]
        graph.graph.output[0].CopyFrom(extra("onnx.helper").make_empty_tensor_value_info(features))
        self.features = _converted(graph)

    def forward(self, images: Tensor) -> Tensor:
        """Of images (n, 1, 64, width), scores of the characters (n, width / 8, characters)."""
        features = self.features(images)  # (n, channels, height, width)
        sequence = features.permute(3, 0, 1, 2).flatten(2)
        states, _ = self.lstm(sequence)
        found: Tensor = self.characters(states).transpose(0, 1)
        return found


def _captchas(count: int, seed: int) -> Drawn:
    """Captchas of a line of characters each, blue first, on the grey that fills up a square."""
    draw = random.Random(seed)
    images = torch.full((count, 3, _SIDE_OF_CAPTCHAS, _SIDE_OF_CAPTCHAS), 114.0)
    for image in images:
        height = draw.randint(110, 200)
        image[:, :height] = page(draw, _SIDE_OF_CAPTCHAS, height, 1, (50, 80)).flip(0)
    return Drawn(images)


def _pages(count: int, seed: int) -> Drawn:
    """Pages of several lines, standardised."""
    draw = random.Random(seed)
    side = _SIDE_OF_PAGES
    pages = torch.stack([page(draw, side, side, draw.randint(3, 7), (16, 36)) for _ in range(count)])
    return Drawn((pages / 255 - _MEAN) / _SPREAD)


def _lines(count: int, seed: int, size: tuple[int, int]) -> tuple[Tensor, tuple[str, ...]]:
    """Lines of text from 0 to 1, and what they say."""
    draw = random.Random(seed)
    images, texts = zip(*(line(draw, size[1], size[0]) for _ in range(count)), strict=True)
    return torch.stack(images) / 255, texts


def _grey_lines(count: int, seed: int) -> Drawn:
    images, texts = _lines(count, seed, _CAPTCHA_LINES)
    return Drawn(images.mean(1, keepdim=True), texts)


def _colour_lines(count: int, seed: int) -> Drawn:
    images, texts = _lines(count, seed, _LINES)
    return Drawn(2 * images.flip(1) - 1, texts)  # blue first, from -1 to 1


def _turned_lines(count: int, seed: int) -> Drawn:
    """Lines, about half of which are upside down."""
    images, _ = _lines(count, seed, _LINES)
    turned = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.5
    images = torch.where(turned[:, None, None, None], images.flip(2, 3), images)
    return Drawn(2 * images.flip(1) - 1, tuple("turned" if one else "upright" for one in turned))


def _overlap(there: Tensor, before: Tensor) -> float:
    """What both detect, of all that either detects, in percent."""
    return 100 * float((there & before).sum() / (there | before).sum())


def _same_characters(found: Tensor, expected: Tensor, _: Sequence[str]) -> float:
    """Agreement on the cells of the grid that hold a character: confidence times class score."""
    there, before = (output[..., 4] * output[..., 5] > _THRESHOLD_OF_CHARACTERS for output in (found, expected))
    return _overlap(there, before)


def _same_text(found: Tensor, expected: Tensor, _: Sequence[str]) -> float:
    """Agreement on the pixels that are text."""
    return _overlap(found > _THRESHOLD_OF_TEXT, expected > _THRESHOLD_OF_TEXT)


def _characters_right(characters: Callable[[], Sequence[str]], found: Tensor, truth: Sequence[str]) -> float:
    """100 % less the character error: insertions, deletions and substitutions, a character of the truth."""
    alphabet = characters()
    wrong = sum(edit_distance(text_of(scores, alphabet), text) for scores, text in zip(found, truth, strict=True))
    return 100 * (1 - wrong / sum(map(len, truth)))


def text_of(scores: Tensor, alphabet: Sequence[str]) -> str:
    """The text that scores (length, characters) amount to: repetitions are one, and the first character is none."""
    best = scores.argmax(1).tolist()
    kept = [one for one, before in zip(best, [0, *best], strict=False) if one not in (0, before)]
    return "".join(alphabet[one] for one in kept).strip()


def edit_distance(found: str, truth: str) -> int:
    """Edit distance (Levenshtein)."""
    row = list(range(len(truth) + 1))
    for number, character in enumerate(found, 1):
        corner, row[0] = row[0], number
        for place, wanted in enumerate(truth, 1):
            corner, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, corner + (character != wanted))
    return row[-1]


def _classes_right(found: Tensor, _: Tensor, truth: Sequence[str]) -> float:
    right = [("upright", "turned")[one] == name for one, name in zip(found.argmax(1).tolist(), truth, strict=True)]
    return 100 * sum(right) / len(right)


@functools.cache
def _characters_of_ddddocr() -> Sequence[str]:
    spec = importlib.util.spec_from_file_location("charsets_of_ddddocr", package_file("ddddocr", "charsets.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(Sequence[str], module.CHARSET_BETA)


@functools.cache
def _characters_of_pp_ocr() -> Sequence[str]:
    properties = _loaded("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx").metadata_props
    (listed,) = (one.value for one in properties if one.key == "character")
    return ["", *listed.splitlines(), " "]


def _pp_ocr(file: str) -> nn.Module:
    return _converted(_loaded("rapidocr_onnxruntime", f"models/{file}"))


REAL_NETWORKS = {
    "ddddocr": RealNetwork(
        lambda: _converted(_loaded("ddddocr", "common_det.onnx")),
        _captchas,
        _same_characters,
        "agreement with the original",
        "amct",
        images=8,
    ),
    "pp-ocr": RealNetwork(
        lambda: _pp_ocr("ch_PP-OCRv4_det_infer.onnx"), _pages, _same_text, "agreement with the original", "any"
    ),
    "ddddocr-reader": RealNetwork(
        lambda: _CaptchaReader().eval(),
        _grey_lines,
        lambda found, _, truth: _characters_right(_characters_of_ddddocr, found, truth),
        "characters right",
        "any",
    ),
    "pp-ocr-reader": RealNetwork(
        lambda: _pp_ocr("ch_PP-OCRv4_rec_infer.onnx"),
        _colour_lines,
        lambda found, _, truth: _characters_right(_characters_of_pp_ocr, found, truth),
        "characters right",
        "any",
    ),
    "pp-ocr-turned": RealNetwork(
        lambda: _pp_ocr("ch_ppocr_mobile_v2.0_cls_infer.onnx"), _turned_lines, _classes_right, "accuracy", "any"
    ),
}
"""By name: a detector of characters (a YOLOX, wide 3×3 convolutions) and one of text (PP-OCRv4's, narrow), ddddocr's
reader of captchas (3×3 convolutions before an LSTM), PP-OCRv4's reader of lines (1×1 and depthwise convolutions and
attention), and PP-OCR's classifier of lines that are upside down (a narrow MobileNetV3)."""
