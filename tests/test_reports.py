"""Reports as data, as text of any width, as pictures, and as files."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amct_pytorch._measure.timing import Comparison, SpeedUp, Timing
from amct_pytorch._report.figure import Axis, Figure, Level, Series
from amct_pytorch._report.picture import save_picture
from amct_pytorch._report.report import Report
from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch.ascend import AscendReport
from amct_pytorch.backend import DeviceInfo, Tolerance
from amct_pytorch.benchmark import BenchmarkReport, BenchmarkRun, LayerBenchmark
from amct_pytorch.errors import ConfigError, MissingExtra, ReportAccessError, shown
from amct_pytorch.export import ExportCheck, ExportReport, TensorInfo
from amct_pytorch.tensor_decompose import plan_decomposition
from amct_pytorch.validate import DtypeValidation, LayerValidation, ValidationReport

from .models import TwoConvs, image

# Text


def columns_of(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


_KINDS = st.sampled_from(["name", "word", "number", "prose"])
_COLUMNS = st.builds(Column, st.text(max_size=12), _KINDS, st.integers(0, 3))


@st.composite
def tables(draw: st.DrawFn, first: st.SearchStrategy[str]) -> Table:
    columns = draw(st.lists(_COLUMNS, min_size=1, max_size=6))
    row = st.tuples(first, *[st.text(max_size=60)] * (len(columns) - 1))
    notes = st.lists(st.text(max_size=200), max_size=2)
    return Table(
        draw(st.text(max_size=200)), tuple(columns), tuple(draw(st.lists(row, max_size=4))), tuple(draw(notes))
    )


@given(st.lists(tables(st.text(max_size=60)), max_size=3), st.integers(20, 130))
def test_no_line_is_wider_than_asked_for_whatever_is_in_it(given: list[Table], width: int) -> None:
    lines = as_text(given, width).split("\n")
    assert max(map(columns_of, lines)) <= width
    assert all(char.isprintable() for line in lines for char in line)


@given(tables(st.from_regex("[a-z]{20}", fullmatch=True)), st.integers(20, 130))
def test_every_row_is_one_line_and_begins_with_its_first_cell(table: Table, width: int) -> None:
    table = dataclasses.replace(table, title="", columns=(Column("first"), *table.columns[1:]))
    head, rule, *lines = as_text([table], width).split("\n")
    assert head.startswith("first")
    assert rule.startswith("─" * (20 if table.rows else 5))
    assert [line[:20] for line in lines[: len(table.rows)]] == [row[0] for row in table.rows]
    assert not any(lines[len(table.rows) : len(table.rows) + 1])  # a blank line before notes, or nothing


@given(tables(st.text(max_size=60)))
def test_with_enough_room_every_cell_is_whole(table: Table) -> None:
    table = dataclasses.replace(table, title="", notes=())
    lines = as_text([table], 1000).split("\n")
    assert len(lines) == 2 + len(table.rows)
    for line, row in zip([lines[0], *lines[2:]], [[c.heading for c in table.columns], *table.rows], strict=True):
        for cell in row:
            assert "".join(char if char.isprintable() else " " for char in cell).strip() in line


_TABLE = Table(
    "Layers",
    (
        Column("layer", "name"),
        Column("geometry", priority=1),
        Column("rank", "number", priority=3),
        Column("reason", "prose", priority=2),
    ),
    (
        ("backbone.stages.2.blocks.11.conv2", "256→256, 3×3", "1,024", "is left out by the rule '*.conv2'"),
        ("backbone.stages.2.blocks.12.conv2", "256→256, 3×3", "96", "the ratio"),
        ("head", "512→10, 1×1", "", "its kernel 1×1 is below 3 on an axis"),
    ),
    ("1 of 3 layers is decomposed.",),
)


def test_with_room_for_all_nothing_is_changed() -> None:
    expected = """\
Layers
layer                              geometry       rank  reason
─────────────────────────────────  ────────────  ─────  ────────────────────────────────────
backbone.stages.2.blocks.11.conv2  256→256, 3×3  1,024  is left out by the rule '*.conv2'
backbone.stages.2.blocks.12.conv2  256→256, 3×3     96  the ratio
head                               512→10, 1×1          its kernel 1×1 is below 3 on an axis

1 of 3 layers is decomposed."""
    assert as_text([_TABLE], 92) == expected


def test_names_lose_their_middle_before_a_column_is_left_out() -> None:
    expected = """\
Layers
layer                  geometry       rank  reason
─────────────────────  ────────────  ─────  ────────────────────────────────────
backbon…ocks.11.conv2  256→256, 3×3  1,024  is left out by the rule '*.conv2'"""
    text = as_text([_TABLE], 80)
    assert text.startswith(expected)
    assert text.endswith("Cut to fit 80 characters. COLUMNS=92 or text(width=92) shows everything.")


def test_columns_are_left_out_by_priority_and_prose_is_cut_for_those_above_it() -> None:
    expected = """\
Layers
layer                  rank  reason
────────────────────  ─────  ────────────────────────
backbon…cks.11.conv2  1,024  is left out by the rule…"""
    text = as_text([_TABLE], 53)
    assert text.startswith(expected)
    assert text.endswith("Left out to fit 53 characters: geometry. COLUMNS=92\nor text(width=92) shows everything.")
    assert as_text([_TABLE], 48).split("\n")[1].split() == ["layer", "rank"]
    assert as_text([_TABLE], 20).split("\n")[1].split() == ["layer"]


def test_wide_characters_count_two_columns() -> None:
    table = Table("", (Column("层", "name"), Column("n", "number")), (("骨干网络", "1"), ("ab", "20")))
    assert as_text([table], 20) == "层         n\n────────  ──\n骨干网络   1\nab        20"
    long = Table("骨干" * 8, (Column("name", "name"),), (("骨干网络" * 4,),))
    assert as_text([long], 20).split("\n")[:3] == ["骨干" * 5, "骨干" * 3, ""]
    assert as_text([long], 20).split("\n")[5] == "骨干网…网络骨干网络"


def test_titles_and_notes_are_wrapped_and_keep_their_own_lines() -> None:
    table = Table("a title of some length", notes=("failed:\n  File x.py", "one two three four five six"))
    assert as_text([table], 20) == "a title of some\nlength\nfailed:\n  File x.py\none two three four\nfive six"


def test_the_width_is_that_of_the_terminal_or_80(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_terminal(*_: object) -> os.terminal_size:
        raise OSError(errno.ENOTTY, "not a terminal")

    monkeypatch.setattr(os, "get_terminal_size", no_terminal)
    monkeypatch.delenv("COLUMNS", raising=False)
    assert as_text([_TABLE]) == as_text([_TABLE], 80)
    monkeypatch.setenv("COLUMNS", "53")
    assert as_text([_TABLE]) == as_text([_TABLE], 53)
    monkeypatch.setenv("COLUMNS", "5")
    assert as_text([_TABLE]) == as_text([_TABLE], 20)
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((120, 40)))
    assert as_text([_TABLE]) == as_text([_TABLE], 120)


@pytest.mark.parametrize("width", [19, 0, -1, 80.0, "80", True])
def test_a_width_that_is_none_is_refused(width: Any) -> None:
    with pytest.raises(ConfigError, match="width: expected a whole number of 20 or more, found"):
        plan_decomposition(TwoConvs()).text(width)


# The reports


def _timing(seconds: float) -> Timing:
    return Timing(seconds, seconds * 0.9, seconds * 1.1, 1, (seconds,))


_COMPARISON = Comparison(_timing(0.012), _timing(0.006), SpeedUp(2.0, 1.9, 2.1, "faster"))
_DEVICE = DeviceInfo(
    "cpu", 0, "Some Processor with a Long Name", "x86", 2**34, 2**20, (torch.float32,), (), {"torch": "2.7"}
)
_NAME = "backbone.stages.2.blocks.11.conv2"

_BENCHMARK = BenchmarkReport(
    _DEVICE,
    (
        BenchmarkRun(
            torch.float32, 8, False, {"threads": "2"},
            (
                LayerBenchmark(_NAME, "64→64, 3×3", "3×1, 1×3", (16,), 1, 1000, 400, 10**6, 4 * 10**5, _COMPARISON),
                LayerBenchmark("", "64→64, 3×3", "3×1, 1×3", (16,), 0, 1000, 400, 0, 0, None),
            ),
            _COMPARISON, 2000, 800, 2**30, 2**29, ("aten::foo",), ("a batch of 16 does not fit",),
        ),
    ),
)  # fmt: skip
_VALIDATION = ValidationReport(
    _DEVICE,
    (
        DtypeValidation(
            torch.float32, Tolerance(1e-6, 1e-5), {"threads": "2"},
            (LayerValidation(_NAME, "3×1, 1×3", (16,), 1, math.nan, 2e-5, 0.25, "wrong: its response is not finite"),),
            0.125, 0.5, ("aten::foo",),
        ),
    ),
)  # fmt: skip
_EXPORT = ExportReport(
    "net.onnx", 18, 2**20, (TensorInfo("x", "tensor(float)", ("batch", 3)),), (),
    (ExportCheck(((2, 3),), 1e-6, 1e-7, 2e-6), ExportCheck(((8, 3),), 1.0, 0.1, 0.5)), {"torch": "2.7"}, "torch.export",
)  # fmt: skip
_ASCEND = AscendReport("deploy", "fp16", _EXPORT, _EXPORT, (), (), ())


def _plan() -> Report:
    return plan_decomposition(TwoConvs(), example_inputs=image())


@pytest.mark.parametrize("report", [_plan, _BENCHMARK, _VALIDATION, _EXPORT, _ASCEND], ids=lambda it: type(it).__name__)
def test_every_report_fits_80_columns_and_shows_all_of_its_tables(report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    report = report() if report is _plan else report
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(columns_of, str(report).split("\n"))) <= 80
    assert str(report) == as_text(report.tables(), 80) == report.text(80)
    text = report.text(width=300)
    for table in report.tables():
        for part in (table.title, *table.notes, *(cell for row in table.rows for cell in row)):
            assert part in text
        for row in table.rows:
            assert len(row) == len(table.columns)


def test_what_is_most_important_survives_at_80_columns() -> None:
    assert """\
layer                    original  decomposed            speed-up  verdict
───────────────────────  ────────  ──────────  ──────────────────  ─────────────
backbone…locks.11.conv2  12 ± 1.2     6 ± 0.6  2.00× [1.90, 2.10]  ▲ faster
(the model)                                                        – did not run
whole model              12 ± 1.2     6 ± 0.6  2.00× [1.90, 2.10]  ▲ faster
""" in _BENCHMARK.text(80)
    assert """\
layer                          device error  verdict
─────────────────────────────  ────────────  ───────────────────────────────────
backbone.s….2.blocks.11.conv2           nan  ✗ wrong: its response is not finite
""" in _VALIDATION.text(80)


def test_a_layer_that_did_not_run_has_empty_cells() -> None:
    _, table = _BENCHMARK.tables()
    assert table.rows[1] == ("(the model)", "64→64, 3×3", "3×1, 1×3", "16", "", "", "", "", "– did not run")
    assert table.rows[2][0] == "whole model"


def test_a_plan_shows_no_column_that_is_empty_for_every_layer() -> None:
    (table,) = plan_decomposition(TwoConvs()).tables()
    assert [column.heading for column in table.columns] == [
        "layer", "Conv2d", "split", "rank", "parameters", "weight error",
    ]  # fmt: skip
    assert "MACs" in [column.heading for column in _plan().tables()[0].columns]


# Files


def _saved(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("report", "kind", "version"),
    [(_BENCHMARK, "benchmark", 4), (_VALIDATION, "validation", 3), (_EXPORT, "export", 1), (_ASCEND, "ascend", 1)],
    ids=["benchmark", "validation", "export", "ascend"],
)
def test_a_report_is_saved_whole_into_folders_that_are_made(
    report: Any, kind: str, version: int, tmp_path: Path
) -> None:
    file = tmp_path / "new" / "folder" / "report.json"
    report.save(file)
    saved = _saved(file)
    assert (saved.pop("format"), saved.pop("version")) == (f"amct_pytorch.{kind}", version)
    assert list(saved) == [field.name for field in dataclasses.fields(report)]
    assert [path.name for path in file.parent.iterdir()] == ["report.json"]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    _VALIDATION.save(tmp_path / "report.json")
    assert _saved(tmp_path / "report.json")["runs"][0]["layers"][0]["device_error"] is None


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_after_an_error_the_old_file_is_there(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report.json"
    file.write_text("old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    expected = ReportAccessError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        _EXPORT.save(file)
    if isinstance(error, OSError):
        assert f"{file}: cannot be written" in str(caught.value)
        assert "No space left on device" in str(caught.value)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("path", ["folder", "file/report.json", "x" * 300])
def test_where_nothing_can_be_written_the_error_names_the_place(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ReportAccessError, match=re.escape(shown(tmp_path / path)) + ": ") as caught:
        _EXPORT.save(tmp_path / path)
    assert isinstance(caught.value, OSError)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("path", [3, None, b"report.json", "", "a\0b"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(ConfigError, match="path"):
        _EXPORT.save(path)


# Pictures

_FIGURE = Figure(
    Axis("MACs", scale="log", ticks=((0.1, "10 %"), (1.0, "100 %"))),
    Axis("accuracy / %", limits=(0, 100)),
    (Series("plain", ((0.1, 20), (1.0, 90))), Series("fitted", ((0.1, 70), (1.0, 99)))),
    (Level("original", 99.5),),
    "Accuracy of a network",
)


def test_a_picture_shows_what_the_figures_say(tmp_path: Path) -> None:
    other = Figure(Axis("epoch"), Axis("loss", scale="log", linear_below=0.1), (Series("plain", ((0, 0), (1, 2))),))
    save_picture([_FIGURE, other], tmp_path / "new" / "picture.svg")
    text = (tmp_path / "new" / "picture.svg").read_text()
    shown = ("Accuracy of a network", "MACs", "accuracy / %", "10 %", "100 %", "original", "fitted", "epoch", "loss")
    for word in shown:
        assert f"<!-- {word} -->" in text
    assert text.count("<!-- plain -->") == 1  # one legend serves both


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("PDF", b"%PDF")])
def test_a_picture_has_the_format_of_its_ending(ending: str, start: bytes, tmp_path: Path) -> None:
    save_picture([_FIGURE], tmp_path / f"picture.{ending}")
    assert (tmp_path / f"picture.{ending}").read_bytes().startswith(start)


@pytest.mark.parametrize("path", ["picture.doc", "picture", 3])
def test_an_ending_of_no_picture_is_refused(path: Any) -> None:
    with pytest.raises(ConfigError, match=f"expected a path that ends in one of .*png.*, found {path!r}"):
        save_picture([_FIGURE], path)


def test_a_picture_that_cannot_be_written_is_an_error_of_reports(tmp_path: Path) -> None:
    (tmp_path / "picture.png").mkdir()
    with pytest.raises(ReportAccessError, match="picture.png: expected the path of a file to write, found a directory"):
        save_picture([_FIGURE], tmp_path / "picture.png")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match="needs matplotlib: pip install matplotlib"):
        save_picture([_FIGURE], tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
