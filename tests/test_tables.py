"""How tables read: names of layers merged, reasons grouped, units, and terminals of every kind."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from amct_pytorch._measure.kernel_summary import KernelProfile, KernelSummary
from amct_pytorch._report.marks import marked, marked_split, tone_of
from amct_pytorch._report.name_patterns import patterns_of
from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.terminal import show
from amct_pytorch._report.text import as_text
from amct_pytorch._report.units import change_in_percent, from_to, in_units
from amct_pytorch.tensor_decompose import (
    Budget,
    Calibration,
    DecompositionConfig,
    DecompositionPlan,
    FixedRank,
    LayerPlan,
    RatioRank,
    load_plan,
    plan_decomposition,
)
from amct_pytorch.tensor_decompose.methods import register_method, registry
from amct_pytorch.tensor_decompose.methods.separable import Separable
from amct_pytorch.tensor_decompose.model.spec import LayerSpec
from amct_pytorch.tensor_decompose.plan.reasons import common_reasons

from .models import TwoConvs, conv, image
from .test_reports import _BENCHMARK, _VALIDATION, columns_of

# Names


def expanded(pattern: str) -> list[str]:
    """The names that a pattern stands for, as a shell expands it."""
    choices = []
    for text, characters, words in re.findall(r"([^\[{]+)|\[([^\]]+)\]|\{([^}]*)\}", pattern):
        if text or characters:
            choices.append([text] if text else list(characters))
            continue
        choices.append([])
        for word in words.split(","):
            first, dots, last = word.partition("..")
            choices[-1] += map(str, range(int(first), int(last) + 1)) if dots else [word]
    return ["".join(parts) for parts in itertools.product(*choices)]


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"], ["layer1.[01].conv[12]"]),
        (["a.0.x", "a.0.y", "a.1.x"], ["a.0.[xy]", "a.1.x"]),
        ([f"h.{n}.{p}_proj" for n in range(12) for p in "qkv"], ["h.{0..11}.[qkv]_proj"]),
        ([f"h.{n}.out" for n in (0, 1, 2, 5, 10, 11)], ["h.{0..2,5,10,11}.out"]),
        (["a.q_proj", "a.out_proj"], ["a.{q,out}_proj"]),
        (["conv", "conv1"], ["conv", "conv1"]),
        (["a.conv", "a.conv1"], ["a.conv{,1}"]),
        (["12", "14", "9", "stem"], ["{9,12,14}", "stem"]),
        (["b.01", "b.1"], ["b.{01,1}"]),
        (["model.22.cv2.0.0.conv", "model.22.cv3.0.0.conv"], ["model.22.cv[23].0.0.conv"]),
        (["x[0]", "x[1]", "y{a}", "z,1", "z,2"], ["x[0]", "x[1]", "y{a}", "z,1", "z,2"]),
        (["", "0"], ["", "0"]),
        (["stem", "head"], ["stem", "head"]),
        (["a.stem", "a.head"], ["a.{stem,head}"]),
        (["only"], ["only"]),
        ([], []),
    ],
)
def test_names_are_merged(names: list[str], patterns: list[str]) -> None:
    assert [pattern.text for pattern in patterns_of(names)] == patterns


_PARTS = st.sampled_from(["0", "1", "2", "10", "11", "02", "conv1", "conv2", "conv12", "q_proj", "out_proj", "", "ä"])
_NAMES = st.lists(st.lists(_PARTS, min_size=1, max_size=4).map(".".join), max_size=25, unique=True)


@given(_NAMES)
def test_patterns_expand_to_exactly_the_names(names: list[str]) -> None:
    patterns = patterns_of(names)
    for pattern in patterns:
        assert sorted(pattern.names) == sorted(expanded(pattern.text) or [""])
    assert sorted(name for pattern in patterns for name in pattern.names) == sorted(names)
    firsts = [min(map(names.index, pattern.names)) for pattern in patterns]
    assert firsts == sorted(firsts)


# Reasons


def test_reasons_that_differ_in_numbers_are_one() -> None:
    found = common_reasons(
        {
            "a": "its 3 channels at the narrower end are below 64",
            "b": "its kernel 1×1 is below 2 on an axis",
            "c": "its 48 channels at the narrower end are below 64",
            "d": "its kernel 1×3 is below 2 on an axis",
            "e": "left out by the rule 'conv1'",
            "f": "left out by the rule 'conv2'",
            "g": "at rank 16 they have 1,152 parameters, no fewer than 900",
            "h": "at rank 16 they have 640 parameters, no fewer than 576.5",
        }
    )
    assert found == [
        ("its 3 to 48 channels at the narrower end are below 64", ["a", "c"]),
        ("its kernel 1×1 or 1×3 is below 2 on an axis", ["b", "d"]),
        ("left out by the rule 'conv1'", ["e"]),
        ("left out by the rule 'conv2'", ["f"]),
        ("at rank 16 they have 640 to 1,152 parameters, no fewer than 576.5 to 900", ["g", "h"]),
    ]


# Units


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (999, "999"), (1000, "1.00 k"), (36_864, "36.9 k"), (404_298, "404 k"), (999_499, "999 k"),
        (999_500, "1.00 M"), (11_173_962, "11.2 M"), (1_814_073_344, "1.81 G"), (2 * 10**12, "2.00 T"),
        (10**18, "1000 P"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_and_a_prefix(count: int, text: str) -> None:
    assert in_units(count) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (100, 39, "−61 %"), (100, 112, "+12 %"), (5, 5, "0 %"), (0, 5, ""), (1000, 996, "−0.4 %"), (1000, 4, "−99.6 %"),
        (100, 0, "−100 %"), (100, 99, "−1 %"), (1000, 991, "−0.9 %"), (10_000, 9904, "−1 %"),
    ],
)  # fmt: skip
def test_changes_are_in_percent(before: int, after: int, text: str) -> None:
    assert change_in_percent(before, after) == text


def test_a_change_says_both_numbers() -> None:
    assert from_to(1_147_722, 404_298) == "1.15 M → 404 k (−65 %)"
    assert from_to(0, 10) == "0 → 10"


def test_verdicts_have_marks_and_words() -> None:
    verdicts = ["faster", "slower", "right", "wrong: NaN", "chosen", "rejected", "unknown", "did not run"]
    assert [marked(verdict)[0] for verdict in verdicts] == list("▲▼✓✗✓✗––")
    assert all(marked(verdict)[2:] == verdict for verdict in verdicts)
    assert marked("") == ""
    cells = [marked_split("3×1, 1×3"), marked_split(""), *map(marked, verdicts[:2])]
    assert cells == ["✓ 3×1, 1×3", "– kept", "▲ faster", "▼ slower"]
    assert [tone_of(cell) for cell in [*cells, ""]] == ["good", "neutral", "good", "bad", "neutral"]


# Plans


class Block(nn.Module):
    """A bottleneck whose layers are called as those of torchvision's ResNets."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv3(self.conv2(self.conv1(x).relu()).relu())


class Blocks(nn.Sequential):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.layer1 = nn.Sequential(*(Block(16, 64) for _ in range(3)))
        self.down = nn.Conv2d(16, 32, 3)
        self.head = conv(32, 64)


def test_layers_alike_are_one_row_and_kept_ones_have_their_reasons_below() -> None:
    torch.manual_seed(0)
    plan = plan_decomposition(
        Blocks(), DecompositionConfig(rank=FixedRank(48)), example_inputs=torch.zeros(1, 3, 12, 12)
    )
    errors = sorted(layer.error for layer in plan.layers if layer.decompose)
    table = plan.tables()[0]
    text = plan.text(110).split("\n")
    assert text[5:8] == [
        "",
        "layer                  Conv2d      split       rank    parameters          MACs  weight error",
        "─────────────────────  ──────────  ──────────  ────  ────────────  ────────────  ────────────",
    ]
    assert text[9] == "layer1.[012].conv1 ×3  16→64, 1×1  – kept            1.09 k     –   102 k     –"
    names = [row[0] for row in table.rows]
    assert names == ["stem", "layer1.[012].conv1 ×3", "layer1.[012].conv2 ×3", "layer1.[012].conv3 ×3", "down", "head"]
    assert table.rows[2][1:6] == ("64→64, 3×3", "✓ 3×1, 1×3", "48", "36.9 k −50 %", "3.69 M −50 %")
    assert table.rows[2][6] == f"{errors[0]:.3f}–{errors[-1]:.3f}"
    assert table.rows[1][2] == "– kept"
    assert "×3: 3 layers alike" in table.notes[0]
    assert table.notes[1:] == (
        "kept: 3 layers, its 3 to 32 channels at the narrower end are below 64 (rule amct): stem, down, head.",
        "kept: 6 layers, its kernel 1×1 is below 2 on an axis, so there is nothing to separate: layer1.[012].conv[13].",
    )


def test_the_header_says_what_was_planned_and_how() -> None:
    model = TwoConvs().eval()
    config = DecompositionConfig(rank=RatioRank(0.25), layers={"conv1": False})
    plan = plan_decomposition(
        model, config, calibration=Calibration(image(24, 3, 16, 16).split(12), mode="refit"), example_inputs=image()
    )
    lines = plan.text(200).split("\n")
    shape = "×".join(map(str, image().shape))
    assert lines[:2] == [
        "TwoConvs: 1 of 3 Conv2d are decomposed.",
        "Method separable, rule amct, ranks by RatioRank(ratio=0.25), multiples of 16, 1 rule for single layers, "
        f"calibration refit, example input {shape}.",
    ]
    plan = plan_decomposition(model, budget=Budget(parameters=0.9))
    assert plan.text(200).split("\n")[1] == (
        "Method auto, rule any, budget parameters=0.9, multiples of 16, no calibration, no example input."
    )


class LongRank(RatioRank):
    """A policy of a user's own with a long description."""

    def __repr__(self) -> str:
        return f"LongRank({'x' * 100})"


class BrokenRank(RatioRank):
    """A policy of a user's own that has no description."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


def test_a_long_or_missing_description_of_a_policy_is_left_to_its_class() -> None:
    for policy in (LongRank(), BrokenRank(), FixedRank({"conv1": 16, "re:conv2|stem|a_long_pattern_of_names": 16})):
        plan = plan_decomposition(TwoConvs(), DecompositionConfig(rank=policy))
        assert f"ranks by {type(policy).__name__}, multiples" in str(plan.settings)


def test_a_plan_by_a_method_that_is_not_installed_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere(Separable):
        name = "nowhere"

        def unadvised(self, layer: LayerSpec) -> str | None:
            return "it is never split"

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    register_method(Nowhere())
    plan = plan_decomposition(TwoConvs(), DecompositionConfig(method="nowhere"))
    assert "kept: 3 layers, it is never split (rule amct): stem, conv[12]." in plan.text(100)
    plan.save(tmp_path / "plan.pt")
    monkeypatch.setattr(registry, "_METHODS", {})
    loaded = load_plan(tmp_path / "plan.pt")
    assert "kept: 3 layers, it is never split: stem, conv[12]." in loaded.text(100)
    assert "reason: it is never split" in str(loaded.explain())


def test_words_for_debugging_and_neighbours_are_in_the_explanation_alone() -> None:
    model = TwoConvs().eval()
    plan = plan_decomposition(
        model,
        budget=Budget(macs=0.5),
        calibration=Calibration(image(48, 3, 16, 16).split(12), mode="refit"),
        example_inputs=image(),
    )
    text, explained = " ".join(plan.text(80).split()), " ".join(plan.explain().text(80).split())
    for word in ("condition", "shrunk", "ridge", "next better", "next cheaper", "samples an unknown"):
        assert word not in text
    for word in ("condition", "shrunk", "next better", "next cheaper", "samples an unknown"):
        assert word in explained
    layer = next(layer for layer in plan.layers if layer.decompose)
    for word in (layer.name, layer.reason, f"{layer.parameters:,} → {layer.parameters_after:,}", str(layer.fit)):
        assert word in explained
    assert f"response error: {layer.response_error:.6f}" in explained
    assert f"weight error: {layer.error:.6f}" in explained


def test_an_explanation_leaves_nothing_out_at_any_width_and_names_amcts_modes_only() -> None:
    plan = plan_decomposition(TwoConvs(), example_inputs=image())
    for width in (40, 80, 200):
        lines = plan.explain().text(width).split("\n")
        assert max(map(columns_of, lines)) <= width
        assert "Left out" not in " ".join(lines)
        assert "…" not in " ".join(lines)
    assert "AMCT's mode: FCFK" in str(plan.explain()) or "AMCT's mode: SCFK" in str(plan.explain())
    channel = plan_decomposition(TwoConvs(), DecompositionConfig(method="channel"))
    assert "AMCT's mode" not in str(channel.explain())
    assert str(plan_decomposition(nn.ReLU()).explain()) == "The model has no Conv2d."


_YOLO = [f"model.22.cv{branch}.{scale}.{part}.conv" for branch in (2, 3) for scale in range(3) for part in range(2)]
_RESNET = [
    f"backbone.layer{stage}.{block}.conv{part}" for stage in range(1, 5) for block in range(3) for part in (1, 2, 3)
]


def _planned(names: list[str], *, alike: bool) -> DecompositionPlan:
    """A plan for layers of these names, all alike or none."""
    torch.manual_seed(0)
    layers = []
    for number, name in enumerate(names):
        spec = LayerSpec(512, 1024 if alike else 1024 + number, (3, 3), (2, 2), (1, 1))
        split = number % 3 != 2
        size = spec.parameters
        layers.append(
            LayerPlan(
                (name,), spec, split, "EVBMF finds 12 terms" if split else "its dilation 2×2 is above 1",
                "separable" if split else None, "SCFK" if split else None, (304,) if split else None,
                size, size // 3 if split else size, 400 * size, 133 * size if split else 400 * size,
                0.5 if split else None,
            )
        )  # fmt: skip
    return DecompositionPlan(tuple(layers), 25_557_032, 18_747_576)


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        text.encode(self._encoding)  # as a real one does, which then fails
        return super().write(text)


def drawn(tables: list[Table], width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What show prints on a terminal of this width in colour, without the colours."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    show(tables, stream)
    assert "\x1b[" in stream.getvalue()
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("names", [_YOLO, _RESNET], ids=["yolo", "resnet"])
def test_no_row_of_a_plan_wraps_and_the_split_stays(
    names: list[str], alike: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _planned(names, alike=alike)
    lines = plan.text(width).split("\n")
    assert drawn(plan.tables(), width, monkeypatch) == lines
    assert max(map(columns_of, lines)) <= width
    rule = next(number for number, line in enumerate(lines) if line.startswith("──"))
    count = len(plan.tables()[0].rows)
    assert "split" in lines[rule - 1]
    assert all("✓ 3×1, 1×3" in line or "– kept" in line for line in lines[rule + 1 : rule + 1 + count])
    assert not lines[rule + 1 + count]
    assert "rank" in lines[rule - 1]
    if width >= 80:
        assert "MACs" in lines[rule - 1]
        assert "weight error" in lines[rule - 1]


_PROFILE = KernelProfile(
    *(KernelSummary(1e-3, 5e-4, True, 8, {"convolution": 4e-4, "other": 1e-4}, ("TF32",), {"strange": 1e-4}),) * 2
)


def _benchmarked(names: list[str]) -> list[Table]:
    (run,) = _BENCHMARK.runs
    layers = tuple(dataclasses.replace(run.layers[0], name=name, profile=_PROFILE) for name in names)
    return dataclasses.replace(_BENCHMARK, runs=(dataclasses.replace(run, layers=layers),)).tables()


def _validated(names: list[str]) -> list[Table]:
    (run,) = _VALIDATION.runs
    layers = tuple(dataclasses.replace(run.layers[0], name=name, verdict="right") for name in names)
    return dataclasses.replace(_VALIDATION, runs=(dataclasses.replace(run, layers=layers),)).tables()


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("names", [_YOLO, _RESNET], ids=["yolo", "resnet"])
@pytest.mark.parametrize(
    ("tables_of", "most_important"),
    [(_benchmarked, {40: "speed-up", 80: "verdict", 120: "MACs"}), (_validated, {40: "verdict", 80: "device error"})],
)
def test_no_row_of_a_measurement_wraps_and_what_is_most_important_stays(
    tables_of: Callable[[list[str]], list[Table]],
    most_important: dict[int, str],
    names: list[str],
    width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = tables_of(names)
    for table in filter(lambda table: table.rows, tables):
        lines = as_text([table], width).split("\n")
        assert drawn([table], width, monkeypatch) == lines
        assert max(map(columns_of, lines)) <= width
        rule = next(number for number, line in enumerate(lines) if line.startswith("──"))
        assert not lines[rule + 1 + len(table.rows)]
        ends = [line.split()[0][-10:] for line in lines[rule + 1 : rule + 1 + len(table.rows)]]
        assert ends == [row[0].split()[0][-10:] for row in table.rows]
        if table.title != "Kernels":
            for heading in (heading for least, heading in most_important.items() if least <= width):
                assert heading in lines[rule - 1]


def test_a_benchmark_says_how_busy_the_machine_was() -> None:
    (run,) = _BENCHMARK.runs
    shares = (0.97, None, 0.91)
    comparisons = [dataclasses.replace(run.model, cpu_share=share) for share in shares]
    layers = tuple(dataclasses.replace(run.layers[0], comparison=one) for one in comparisons[:2])
    loaded = dataclasses.replace(run, model=comparisons[2], layers=layers)
    text = dataclasses.replace(_BENCHMARK, runs=(loaded,)).text(200)
    assert "float32, batch 8, eager, CPU share 91%: threads 2" in text
    assert "CPU share: what the process got of the CPU time that it could use" in text
    assert "CPU share" not in _BENCHMARK.text(200)


# Terminals

_TABLE = Table(
    "Net: 64→64, 3×3",
    (Column("layer", "name"), Column("verdict", "verdict"), Column("change", "number")),
    (("conv1", "▲ faster", "−61 %"), ("a.very.long.name.of.a.layer.conv2", "▼ slower", "1 ± 0.2")),
    ("‖difference‖ ≤ 1 …",),
)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp936", "cp1252", "utf-8"])
@pytest.mark.parametrize("rich", [True, False])
def test_no_encoding_of_a_terminal_is_an_error(encoding: str, rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    stream = Terminal(encoding)
    show([_TABLE], stream)
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert "faster" in text
    assert "slower" in text
    assert max(map(columns_of, text.split("\n"))) <= 40


def test_without_the_characters_there_are_ascii_ones() -> None:
    expected = """\
Net: 64->64, 3x3
layer                 verdict     change
--------------------  --------  --------
conv1                 ^ faster     -61 %
a.very...layer.conv2  v slower  1 +- 0.2

||difference|| <= 1 ...
Cut to fit 40 characters. COLUMNS=53 or
text(width=53) shows everything."""
    assert as_text([_TABLE], 40, "ascii") == expected
    assert as_text([Table("层 1")], 40, "ascii") == "? 1"


def test_print_of_a_report_does_not_fail_where_the_output_lacks_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_decomposition(TwoConvs())
    stream = Terminal("ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    print(plan)
    assert "+ 3x1, 1x3" in stream.getvalue()


def test_what_is_piped_is_plain_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    show([_TABLE])
    assert capsys.readouterr().out == as_text([_TABLE], 60) + "\n"
    stream: Any = io.StringIO()
    show([_TABLE, _TABLE], stream)
    assert stream.getvalue() == as_text([_TABLE, _TABLE], 60) + "\n"


def test_without_rich_a_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    stream = Terminal()
    show([_TABLE], stream)
    assert stream.getvalue() == as_text([_TABLE], 60) + "\n"
