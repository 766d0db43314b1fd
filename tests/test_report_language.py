"""Reasons and notes on the Chinese page: every template of the library has a Chinese form, and none is a guess."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import amct_pytorch
from amct_pytorch._page.chinese_sentences import CHINESE_SENTENCES
from amct_pytorch._page.sentences import in_language
from amct_pytorch._page.words import LANGUAGES, said
from amct_pytorch.report import save_report
from amct_pytorch.tensor_decompose import Budget, DecompositionConfig, plan_decomposition

_ROOT = Path(amct_pytorch.__file__).parent.parent

# The functions that put the sentences of reports together, by file.
_SOURCES = {
    "amct_pytorch/tensor_decompose/methods/base.py": ("why_not",),
    "amct_pytorch/tensor_decompose/methods/separable.py": ("impossible", "unadvised"),
    "amct_pytorch/tensor_decompose/methods/channel.py": ("impossible", "unadvised"),
    "amct_pytorch/tensor_decompose/methods/tucker2.py": ("impossible", "unadvised"),
    "amct_pytorch/tensor_decompose/methods/geometry.py": ("why_grouped", "why_narrow"),
    "amct_pytorch/tensor_decompose/methods/eligible.py": ("why_kept", "_why_not"),
    "amct_pytorch/tensor_decompose/methods/weight_group.py": ("shortfall",),
    "amct_pytorch/tensor_decompose/methods/within_budget.py": ("_verdict", "chosen"),
    "amct_pytorch/tensor_decompose/methods/latencies.py": ("__str__",),
    "amct_pytorch/tensor_decompose/methods/within_latency.py": ("_nothing", "chosen", "chosen_within_latency"),
    "amct_pytorch/tensor_decompose/model/eligibility.py": ("why_not_replaceable", "_why_not_plain"),
    "amct_pytorch/tensor_decompose/model/surroundings.py": ("kept_for_their_surroundings",),
    "amct_pytorch/tensor_decompose/model/layers.py": (
        "without_layers",
        "_layers_of",
        "_why_tied",
        "_without_hidden_weights",
    ),
    "amct_pytorch/tensor_decompose/plan/planner.py": ("agreed", "_without_idle"),
    "amct_pytorch/tensor_decompose/config.py": ("for_layer",),
    "amct_pytorch/tensor_decompose/plan/settings.py": ("__str__", "settings_of"),
    "amct_pytorch/tensor_decompose/ranks/policies.py": ("choose", "for_layer"),
    "amct_pytorch/tensor_decompose/calibration/evaluation.py": ("__str__",),
    "amct_pytorch/tensor_decompose/search/run.py": ("_is_over",),
    "amct_pytorch/_measure/benchmark_run.py": ("_doubts", "benchmark_runs"),
    "amct_pytorch/_measure/layer_benchmark.py": ("doubt_impossible",),
    "amct_pytorch/_measure/layer_errors.py": ("verdict",),
    "amct_pytorch/_deploy/ascend_tools.py": ("__str__",),
    "amct_pytorch/_deploy/atc_rewrites.py": ("rewritten", "_inlined", "_with_different_names", "_with_one_domain"),
    "backends/npu_fallbacks.py": ("caution", "_why_silent"),
}


def _strings(node: ast.AST) -> Iterator[str]:
    """The text of strings below a node with a NUL where something is filled in; without docstrings and errors."""
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("warn_user", "ConfigError"):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from _strings(part.value)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _strings(child)


def _texts_of_library() -> Iterator[str]:
    """What the library itself says in the sentences of reports, between what it fills in."""
    for file, functions in _SOURCES.items():
        tree = ast.parse((_ROOT / file).read_text(encoding="utf-8"))
        found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in functions]
        for function in found:
            for statement in function.body:
                for text in _strings(statement):
                    yield from (_bare(part.removeprefix("wrong: ")) for part in text.split("\0"))


def _bare(text: str) -> str:
    """Text without what surrounds it, and without a number at its end, which elsewhere is filled in."""
    return re.sub(r" \d+$", "", text.strip(" ,;:.()[]\n"))


def _is_sentence(text: str) -> bool:
    return " " in text and len(re.findall(r"[a-z]{2,}", text)) > 1


# What only decomposed layers have, whose reasons the page does not show; a word of the page; parts of errors.
_ELSEWHERE = {"within the budget", "next better", "next cheaper", "did not run"} | {
    "for number",
    "ranks, of",
    "a single rank, of",
}


def test_every_template_of_the_library_has_a_chinese_form() -> None:
    texts = {text for text in _texts_of_library() if _is_sentence(text)} - _ELSEWHERE
    assert len(texts) > 60
    known = "\n".join(CHINESE_SENTENCES)
    missing = [text for text in sorted(texts) if not all(part in known for part in text.split("; "))]
    assert missing == []


def test_no_chinese_form_is_of_a_template_that_is_no_more() -> None:
    files = [*(_ROOT / "amct_pytorch").rglob("*.py"), *(_ROOT / "backends").rglob("*.py")]
    said_by_library = "\n".join(
        text
        for file in files
        if "_page" not in file.parts
        for statement in ast.parse(file.read_text(encoding="utf-8")).body
        for text in _strings(statement)
    )
    stale = [
        template
        for template in CHINESE_SENTENCES
        for part in re.split(r"\{\w+\}", template)
        if _bare(part) not in said_by_library
    ]
    assert stale == []


@pytest.mark.parametrize("template", [template for template in CHINESE_SENTENCES if "; " not in template])
def test_no_template_hides_another(template: str) -> None:
    values = {name: "s" if name == "plural" else f"<{name}>" for name in re.findall(r"\{(\w+)\}", template)}
    form = CHINESE_SENTENCES[template]
    assert set(re.findall(r"\{(\w+)\}", form)) == values.keys() - {"plural"}
    assert re.search(r"[\u4e00-\u9fff]", form)
    assert in_language(template.format(**values), CHINESE_SENTENCES) == form.format(**values)


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("its stride 3×3 or 4×4 is above 2", "步长 3×3 或 4×4 大于 2"),
        ("its 1 to 48 channels at the narrower end are below 64", "输入与输出中较少的通道数 1 至 48 低于 64"),
        (
            "it has 4 groups (channel, tucker2); a Linear has no kernel",
            "该层为分组卷积，共 4 组（channel, tucker2）；Linear 没有空间卷积核",
        ),
        (
            "a split at ranks 16, 32 would have 9,000 parameters, no fewer than 8,000",
            "以秩 16, 32 分解后参数量为 9,000，不少于原来的 8,000",
        ),
        ("it is used in the head as a table", "it is used in the head as a table"),  # of another package
        ("", ""),
    ],
)
def test_a_sentence_in_chinese(english: str, chinese: str) -> None:
    assert said(english, LANGUAGES["zh"]) == chinese
    assert said(english, LANGUAGES["en"]) == english


class _Odd(nn.Module):
    """Layers that are kept for many reasons."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.narrow = nn.Conv2d(3, 64, 3, padding=1)
        self.body = nn.Conv2d(64, 64, 3, padding=1)
        self.single = nn.Conv2d(64, 64, 1)
        self.grouped = nn.Conv2d(64, 64, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(64, 64, 3, padding=2, dilation=2)
        self.sparse = nn.Conv2d(64, 64, 3, stride=3, padding=1)
        self.up = nn.ConvTranspose2d(64, 64, 2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(64, 64, 3, padding=1))
        self.idle = nn.Conv2d(64, 64, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for name, layer in self.named_children():
            images = images if name == "idle" else layer(images)
        return images


@pytest.mark.parametrize("budget", [None, Budget(macs=0.9)])
def test_the_chinese_page_of_a_plan_has_no_english_sentence(tmp_path: Path, budget: Budget | None) -> None:
    config = DecompositionConfig(layers={"body": False}) if budget is None else None
    plan = plan_decomposition(_Odd(), config, budget=budget, example_inputs=torch.zeros(1, 3, 9, 9))
    assert sum(not layer.decompose for layer in plan.layers) > 3
    save_report(tmp_path / "page.html", plan, language="zh")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert re.findall(r"\b(?:its|is|are|was|the|which|would|than|never|no)\b[^\n]*", shown) == []
