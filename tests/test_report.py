"""Reports as an HTML page, without a browser, and the reports that a folder holds."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from amct_pytorch._page.words import LANGUAGES
from amct_pytorch._report.figure import Axis, Figure, Level, Series
from amct_pytorch._report.html.svg import drawing
from amct_pytorch.benchmark import BenchmarkReport
from amct_pytorch.cli.exit_codes import ExitCode
from amct_pytorch.errors import ConfigError, ConfigTypeError, LayerError, MissingExtra, ReportAccessError
from amct_pytorch.report import ScoreReport, UnreadFile, load_reports, save_report
from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    DecompositionPlan,
    SearchResult,
    layer_spectra,
    plan_decomposition,
)

from . import sample_reports as sample
from .command_line import Command, command
from .models import TwoConvs, image

__all__ = ["command"]  # a fixture

_VOID = {"meta", "link", "br", "hr", "img", "input"}
_HOSTILE = "</script><img src=x onerror=alert(1)>&amp;'\"{{ 7 * 7 }}"


class Html(html.parser.HTMLParser):
    """What a page consists of; fails where an element is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: dict[str, Any] = {}
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            self.data[str(attributes["id"]).removeprefix("data-")] = json.loads(data)
        elif tag not in ("script", "style") and data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    @property
    def sections(self) -> list[str]:
        return [str(attributes["id"]) for tag, attributes in self.elements if tag == "section"]


def page(tmp_path: Path, reports: Any, **options: Any) -> Html:
    save_report(tmp_path / "page.html", reports, **options)
    return Html((tmp_path / "page.html").read_text(encoding="utf-8"))


# The page


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_of_everything_has_every_section_once_and_loads_nothing(tmp_path: Path, language: str) -> None:
    found = page(tmp_path, sample.every_kind("layer1.conv1", "layer1.conv2"), language=language)
    parts = ["summary", "search", "layers", "kept", "spectra", "speed", "validation", "onnx", "ascend"]
    assert found.sections == [*parts, "environment", "command"]
    links = [attributes["href"] for tag, attributes in found.elements if tag == "a"]
    assert links == [f"#{section}" for section in found.sections]
    values = [value or "" for _, attributes in found.elements for name, value in attributes.items()]
    assert not [value for value in values if "//" in value]
    assert not any({"src", "srcset", "xlink:href"} & attributes.keys() for _, attributes in found.elements)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(" not in text


def test_a_page_says_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    found = page(tmp_path, sample.plan([dataclasses.replace(sample.layer_plan("a"), macs=None, macs_after=None)]))
    assert found.sections == ["summary", "layers"]
    assert "Latency" not in found.text
    assert "MACs" not in re.sub("Budget .*", "", found.text)
    assert found.count("article") == 1  # parameters
    assert page(tmp_path, ScoreReport("accuracy", "%", 90.0, 89.5, fine_tuned=90.25)).sections == ["summary"]


def test_the_cards_say_how_much_of_what_is_left(tmp_path: Path) -> None:
    text = page(tmp_path, sample.every_kind("a", "b")).text
    assert re.search(r"99\.75 %\n→\n99\.5 %\n−0\.25 percentage points\non 450 samples", text)
    assert re.search(r"12\.3 ms\n→\n6\.12 ms\n2\.02× \[1\.97, 2\.06\] ▲ faster\nA processor, float32, batch 8", text)
    assert re.search(r"MACs\n81\.8 k\n→\n21\.8 k\n−73 %", text)
    assert re.search(r"Parameters\n120 k\n→\n60\.0 k\n−50 %", text)


def test_on_a_busy_machine_the_verdict_is_withheld_and_the_page_says_why(tmp_path: Path) -> None:
    text = page(tmp_path, sample.benchmark(["a"], share=0.4)).text
    assert "Verdict withheld: the process got 40 % of the CPU time that it could use" in text
    assert "– withheld" in text
    assert not re.search(r"2\.02×.*\n.*whole", text)


def test_kept_layers_are_grouped_by_reason(tmp_path: Path) -> None:
    layers = [
        sample.kept(name, reason) for name, reason in (("a", "too narrow"), ("b", "by a rule"), ("c", "too narrow"))
    ]
    text = page(tmp_path, sample.plan(layers)).text
    assert re.search(r"too narrow\n2\na\nc\nby a rule\n1\nb", text)


def test_the_command_given_replaces_that_of_the_run(tmp_path: Path) -> None:
    reports = sample.every_kind("a")
    assert "amct-decompose search --drop 0.5" in page(tmp_path, reports).texts
    other = page(tmp_path, reports, command="python decompose.py < list").texts
    assert "python decompose.py < list" in other
    assert "amct-decompose search --drop 0.5" not in other


def test_names_are_shown_as_they_are_whatever_is_in_them(tmp_path: Path) -> None:
    plain, hostile = (page(tmp_path, sample.every_kind(name), command=name) for name in ("plain", _HOSTILE))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert hostile.texts.count(_HOSTILE) == plain.texts.count("plain") > 4
    assert hostile.data["plan"]["layers"]["names"][-1] == [_HOSTILE]


def test_half_of_a_surrogate_pair_in_a_name_does_not_prevent_the_page(tmp_path: Path) -> None:
    assert "caf\\udce9" in page(tmp_path, sample.every_kind("caf\udce9")).text


def test_the_data_of_the_page_are_those_of_the_reports(tmp_path: Path) -> None:
    reports = sample.every_kind("layer1.conv1", "layer1.conv2")
    data = page(tmp_path, reports).data
    formats = "plan search spectra benchmark validation export ascend scores run"
    assert sorted(data) == sorted(formats.split())
    assert {data[name]["format"] for name in data} == {f"amct_pytorch.{name}" for name in data}
    layers = data["plan"]["layers"]
    assert layers["names"] == [["stem"], ["head"], ["layer1.conv1"], ["layer1.conv2"]]
    assert layers["error"] == [None, None, 0.3125, 0.3125]
    assert layers["spec.in_channels"] == [3, 3, 64, 64]
    assert "factors" not in layers
    assert data["search"]["evaluations"]["score"] == [99.75, 97.125, 99.5]
    assert data["benchmark"]["runs"][0]["model"]["before"]["median"] == 0.0123457
    assert data["benchmark"]["runs"][0]["layers"]["comparison.speed_up.ratio"] == [2.02, 2.02, None]
    assert data["validation"]["runs"][0]["layers"]["device_error"] == [2.5e-7, 2.5e-7, None]
    assert data["scores"]["samples"] == 450
    assert data["spectra"]["layers"]["ranks"][1][0]["left_out"] == 0.1875


def test_two_reports_of_one_kind_have_two_sections_and_two_sets_of_data(tmp_path: Path) -> None:
    found = page(tmp_path, [sample.benchmark(["a"]), sample.benchmark(["b"]), sample.benchmark(["c"])])
    assert found.sections == ["summary", "speed", "speed-2", "speed-3", "environment"]
    assert list(found.data) == ["benchmark", "benchmark-2", "benchmark-3"]


def test_the_plan_of_a_search_is_shown_without_being_given(tmp_path: Path) -> None:
    found = page(tmp_path, sample.search(sample.plan([sample.layer_plan("only.here")])))
    assert found.sections == ["summary", "search", "layers"]
    assert "only.here" in found.texts


def test_hundreds_of_layers_stay_below_a_megabyte(tmp_path: Path) -> None:
    names = [f"backbone.stages.{number // 100}.blocks.{number}.attention.projection" for number in range(500)]
    found = page(tmp_path, sample.every_kind(*names))
    assert found.texts.count(names[-1]) >= 3
    assert (tmp_path / "page.html").stat().st_size < 1e6


# Languages


def test_both_languages_have_the_same_words_with_the_same_places_to_fill_in() -> None:
    english, chinese = LANGUAGES["en"], LANGUAGES["zh"]
    assert list(english) == list(chinese)
    places = re.compile(r"\{.*?\}")
    for key, text in english.items():
        assert sorted(places.findall(text)) == sorted(places.findall(chinese[key])), key
    in_chinese = re.compile("[一-鿿，：；]")
    assert [key for key, text in english.items() if in_chinese.search(text)] == []
    assert [key for key, text in chinese.items() if not in_chinese.search(text)] == ["language"]


def test_both_languages_show_the_same_numbers(tmp_path: Path) -> None:
    reports = sample.every_kind("layer1.conv1")
    english, chinese = (page(tmp_path, reports, language=language) for language in LANGUAGES)
    assert english.sections == chinese.sections
    assert english.data == chinese.data
    assert english.count("td") == chinese.count("td")
    numbers = re.compile(r"\d+(?:\.\d+)?")
    assert sorted(numbers.findall(english.text)) == sorted(numbers.findall(chinese.text))
    languages = [
        next(attributes["lang"] for tag, attributes in one.elements if tag == "html") for one in (english, chinese)
    ]
    assert languages == ["en", "zh-CN"]


# Pictures


def test_a_figure_is_drawn_to_scale() -> None:
    figure = Figure(
        Axis("x < 1", scale="log", limits=(1.0, 100.0)),
        Axis("y", limits=(0.0, 1.0)),
        (Series("a & b", ((1.0, 0.0), (10.0, 0.5), (100.0, 1.0))),),
        (Level("half", 0.5),),
    )
    found = Html(drawing(figure, 'what "it" shows'))
    (svg,) = (attributes for tag, attributes in found.elements if tag == "svg")
    assert svg["aria-label"] == 'what "it" shows'
    centres = [
        (float(attributes["cx"] or ""), float(attributes["cy"] or ""))
        for tag, attributes in found.elements
        if tag == "circle"
    ][:3]
    (left, bottom), middle, (right, top) = centres
    assert middle == pytest.approx(((left + right) / 2, (bottom + top) / 2), abs=0.1)
    assert left < right
    assert top < bottom
    assert {"x < 1", "y", "a & b", "half", "1", "10", "100", "0.0", "1.0"} <= set(found.texts)


@pytest.mark.parametrize("points", [((3.0, 2.0),), ((3.0, 0.0), (4.0, 0.0)), ((1e-9, 1e9), (2e-9, 1e9))])
def test_a_figure_with_one_value_is_drawn(points: tuple[tuple[float, float], ...]) -> None:
    for scale in ("linear", "log"):
        drawn = drawing(Figure(Axis("x", scale=scale), Axis("y"), (Series("one", points),)))  # type: ignore[arg-type]
        assert "nan" not in drawn
        assert Html(drawn).count("circle") == len(points) + 1  # one in the legend


def test_a_level_that_is_not_finite_is_left_out() -> None:
    points, levels = ((1.0, 2.0), (2.0, 3.0)), (Level("none", -math.inf), Level("some", 2.5))
    drawn = drawing(Figure(Axis("x"), Axis("y"), (Series("one", points),), levels))
    assert drawn == drawing(Figure(Axis("x"), Axis("y"), (Series("one", points),), levels[1:]))


# Spectra


def test_a_spectrum_has_the_energy_beyond_the_rank_that_the_plan_chose() -> None:
    model = TwoConvs().eval()
    plan = plan_decomposition(model, DecompositionConfig(method="channel"))
    found = layer_spectra(model, plan)
    assert [layer.name for layer in found.layers] == [layer.name for layer in plan.layers if layer.decompose]
    layer = found.layers[0]
    weight = model.get_submodule(layer.name).weight.detach().double()  # type: ignore[operator,union-attr]
    (part,) = layer.ranks
    singulars = torch.linalg.svdvals(weight.flatten(1))
    planned = next(one for one in plan.layers if one.name == layer.name)
    assert part.rank == planned.rank
    assert part.left_out == pytest.approx(float((singulars[part.rank :] ** 2).sum() / (singulars**2).sum()), rel=1e-4)
    picked = singulars[[number - 1 for number in part.numbers]] / singulars[0]
    assert part.values == pytest.approx(picked.tolist(), rel=1e-3)
    assert part.rank in part.numbers
    assert part.numbers[0] == 1
    assert part.numbers[-1] == part.full_rank == len(singulars)


def test_a_spectrum_of_a_split_with_two_ranks_has_both() -> None:
    model = TwoConvs().eval()
    plan = plan_decomposition(model, DecompositionConfig(method="tucker2"))
    found = layer_spectra(model, plan)
    planned = {layer.name: layer.ranks for layer in plan.layers if layer.decompose}
    assert {layer.name: tuple(one.rank for one in layer.ranks) for layer in found.layers} == planned
    assert len(found.figures()[0].series) == 4
    assert "energy left out" in str(found)


def test_spectra_are_of_the_model_that_was_planned_alone() -> None:
    model = TwoConvs().eval()
    plan = plan_decomposition(model)
    with torch.no_grad():
        model.conv1.weight += 1
    with pytest.raises(LayerError, match="'conv1': its weight has changed since the plan was made"):
        layer_spectra(model, plan)
    other = TwoConvs().eval()
    other.conv1 = torch.nn.Identity()  # type: ignore[assignment]
    with pytest.raises(LayerError, match="'conv1': the plan expects a Conv2d .* found none of that name"):
        layer_spectra(other, plan)


# Folders


@pytest.fixture(scope="module")
def original_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with every file, and others that are no reports."""
    place = tmp_path_factory.mktemp("out")
    model = TwoConvs().eval()
    plan = plan_decomposition(model, example_inputs=image())
    plan.save(place / "plan.json")
    for report in sample.every_kind("a", "b")[1:]:
        report.save(place / f"{report.json_format.rpartition('.')[2]}.json")  # type: ignore[attr-defined]
    plan.apply(model, place / "decompose_info.json")
    torch.save(model.state_dict(), place / "weights.pth")
    (place / "search.jsonl").write_text("{}\n")
    (place / "ascend").mkdir()
    return place


@pytest.fixture
def folder(original_folder: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(original_folder, tmp_path / "out"))


def test_the_reports_of_a_folder_are_those_that_were_saved(folder: Path) -> None:
    found = load_reports(folder)
    by_kind = {type(report): report for report in found}
    assert by_kind.keys() == {type(report) for report in sample.every_kind()}
    assert len(found) == len(by_kind)
    for report in sample.every_kind("a", "b")[1:]:
        read = by_kind[type(report)]
        assert read.content() == report.content()  # type: ignore[attr-defined]
        assert str(read) == str(report)
    assert by_kind[SearchResult].plan is by_kind[DecompositionPlan]  # type: ignore[attr-defined]
    assert isinstance(by_kind[BenchmarkReport].runs[0].dtype, torch.dtype)  # type: ignore[attr-defined]


def test_a_search_without_its_plan_says_so(tmp_path: Path) -> None:
    sample.search(sample.plan([sample.layer_plan("a")])).save(tmp_path / "search.json")
    (found,) = load_reports(tmp_path)
    assert isinstance(found, SearchResult)
    assert "in a file of its own, which is not in the folder" in str(found.plan)
    assert "in a file of its own" in page(tmp_path, found).text


@pytest.mark.parametrize(
    "name", ["plan", "search", "benchmark", "validation", "export", "ascend", "spectra", "scores", "run"]
)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_is_half_written_is_named(folder: Path, tmp_path: Path, name: str, share: float) -> None:
    file = folder / f"{name}.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    found = load_reports(folder)
    (unread,) = (report for report in found if isinstance(report, UnreadFile))
    assert unread.name == file.name
    assert str(folder) not in unread.why
    assert f"✗ {file.name}: " in page(tmp_path, found).text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[]", "expected an object, found list"),
        ('{"epochs": 3}', "expected the key 'format' with one of .*amct_pytorch.benchmark.*, found None"),
        ('{"format": ["x"]}', "found \\['x'\\]"),
        ('{"format": "amct_pytorch.scores", "version": 9}', "expected version 1 of amct_pytorch.scores, found 9"),
        ('{"format": "amct_pytorch.scores", "version": 1}', "expected the keys metric, unit"),
        ('{"format": "amct_pytorch.search", "version": 1, "minimise": "time"}', "expected the keys"),
        ('{"format": "amct_pytorch.scores", "format": 1}', "the key 'format' twice"),
        ('{"format": NaN}', "holds NaN"),
        ("[" * 100_000, "no valid JSON"),
        ("\xff", "expected UTF-8"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, content: str, why: str) -> None:
    sample.benchmark(["a"]).save(tmp_path / "benchmark.json")
    (tmp_path / "other.json").write_text(content, encoding="latin-1")
    _, unread = load_reports(tmp_path)
    assert isinstance(unread, UnreadFile)
    assert unread.name == "other.json"
    assert re.search(why, unread.why)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"minimise": "time"}, "minimise: expected one of macs, parameters, latency, found 'time'"),
        ({"evaluations": []}, "expected evaluations"),
        ({"evaluations": 3}, "evaluations: expected a list, found 3"),
        ({"drop": "much"}, "drop: expected a number, found 'much'"),
    ],
)
def test_a_report_with_a_wrong_value_is_named_with_its_place(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    content = sample.search(sample.plan([])).content() | change
    (tmp_path / "search.json").write_text(json.dumps(content))
    (unread,) = load_reports(tmp_path)
    assert isinstance(unread, UnreadFile)
    assert why in unread.why


def test_a_folder_without_reports_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "decompose_info.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"expected reports, such as plan\.pt, .* found none among 0 files"):
        load_reports(tmp_path)
    with pytest.raises(ReportAccessError, match="expected a folder with reports, found nothing"):
        load_reports(tmp_path / "absent")
    with pytest.raises(ReportAccessError, match="expected a folder with reports, found a file"):
        load_reports(tmp_path / "decompose_info.json")
    with pytest.raises(ConfigTypeError, match="folder must be the path of a directory, found 3"):
        load_reports(3)  # type: ignore[arg-type]


# Errors


def test_without_jinja2_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    (tmp_path / "page.html").write_text("earlier")
    with pytest.raises(MissingExtra, match="pip install jinja2"):
        page(tmp_path, sample.benchmark(["a"]))
    assert (tmp_path / "page.html").read_text() == "earlier"


@pytest.mark.parametrize(
    ("reports", "error", "why"),
    [
        ([], ConfigError, "expected one at least, found none"),
        ("plan.json", ConfigTypeError, "expected reports of amct_pytorch .*, found 'plan.json'"),
        (3, ConfigTypeError, "found 3"),
        ([3], ConfigTypeError, "found 3"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, reports: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        save_report(tmp_path / "page.html", reports)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    report = sample.benchmark(["a"])
    with pytest.raises(ConfigError, match="language: expected one of 'en', 'zh', found 'fr'"):
        save_report(tmp_path / "page.html", report, language="fr")  # type: ignore[arg-type]
    with pytest.raises(ConfigTypeError, match="command: expected a string, found 3"):
        save_report(tmp_path / "page.html", report, command=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigTypeError, match="path must be the path of a file, found None"):
        save_report(None, report)  # type: ignore[arg-type]
    with pytest.raises(ReportAccessError, match="found a directory"):
        save_report(tmp_path, report)
    assert not list(tmp_path.iterdir())


# The command line


def test_the_verb_writes_the_page_of_a_folder(command: Command, folder: Path, tmp_path: Path) -> None:
    assert command("report", folder, "--json").json == {"path": f"{folder}/report.html", "unread": []}
    assert "Decomposition report" in (folder / "report.html").read_text(encoding="utf-8")
    (folder / "run.json").write_text("{")
    other = tmp_path / "new" / "page.html"
    ended = command("report", folder, "-o", other, "--lang", "zh")
    assert ended.code == ExitCode.FAILED
    assert "run.json could not be read: it is no valid JSON, perhaps half written" in " ".join(ended.out.split())
    assert "张量分解报告" in other.read_text(encoding="utf-8")


def test_what_the_verb_cannot_do_has_the_exit_code_of_its_kind(command: Command, folder: Path) -> None:
    assert command("report", folder, "--lang", "fr").code == ExitCode.USAGE
    assert command("report", folder / "ascend").code == ExitCode.USAGE
    assert command("report", folder / "absent").code == ExitCode.FILE
    assert not (folder / "report.html").exists()
