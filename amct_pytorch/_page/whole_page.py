"""The page that some reports make together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from .. import __version__
from .._deploy.export_report import ExportReport
from .._measure.benchmark_report import BenchmarkReport
from .._measure.validation_report import ValidationReport
from .._report.html.parts import Card, Cards, Code, Facts, Page, Section, Text
from .._report.report import Report
from .._report.run_record import RunRecord
from .._report.scores import ScoreReport
from .._report.units import in_gib
from ..ascend import AscendReport
from ..backend import DeviceInfo
from ..tensor_decompose.plan.plan import DecompositionPlan
from ..tensor_decompose.plan.spectra import SpectraReport
from ..tensor_decompose.search.result import SearchResult
from .cards import agreement_card, latency_card, plan_cards, proof_card, score_card, search_card
from .data import data_of
from .deployment_section import ascend_section, export_section
from .device_sections import benchmark_section, validation_section
from .plan_sections import plan_sections
from .search_section import search_section
from .spectra_section import spectra_section
from .unread import UnreadFile
from .words import Words

Kind = TypeVar("Kind", bound=Report)

KINDS: tuple[type[Report], ...] = (
    AscendReport,
    BenchmarkReport,
    DecompositionPlan,
    ExportReport,
    RunRecord,
    ScoreReport,
    SearchResult,
    SpectraReport,
    UnreadFile,
    ValidationReport,
)
"""The reports that the page has sections for."""


def page_of(reports: Sequence[Report], words: Words, command: str | None) -> Page:
    """The page of these reports, in the order in which a reader asks.

    Parameters
    ----------
    reports
        Of the classes in `KINDS`, in any order; several of one class each get a section.
    words
        The language.
    command
        The command that they came from; None for that of the `RunRecord`, if there is one.
    """
    runs = _of(RunRecord, reports)
    searches = _of(SearchResult, reports)
    plans = _of(DecompositionPlan, reports) or [found.plan for found in searches]
    commands = [command] if command else [run.command for run in runs]
    sections = [
        *_summary(reports, plans, words),
        *_numbered([search_section(found, words) for found in searches]),
        *_numbered([section for plan in plans for section in plan_sections(plan, words)]),
        *_numbered([spectra_section(spectra, words) for spectra in _of(SpectraReport, reports) if spectra.layers]),
        *_numbered([benchmark_section(report, words, "speed") for report in _of(BenchmarkReport, reports)]),
        *_numbered([validation_section(report, words, "validation") for report in _of(ValidationReport, reports)]),
        *_numbered([export_section(report, words, "onnx") for report in _of(ExportReport, reports)]),
        *_numbered([ascend_section(report, words, "ascend") for report in _of(AscendReport, reports)]),
        *_environment(reports, runs, words),
    ]
    if commands:
        sections.append(Section("command", words["command"], tuple(map(Code, commands))))
    if unread := _of(UnreadFile, reports):
        sections.append(Section("unread", words["unread"], tuple(Text(f"✗ {one.name}: {one.why}") for one in unread)))
    return Page(
        language=words["language"],
        title=words["title"],
        subtitle=" · ".join(dict.fromkeys([*_models(plans), *(run.began for run in runs)])),
        contents=words["contents"],
        sections=tuple(sections),
        footer=words["footer"].format(version=__version__),
        data=data_of([report for report in reports if not isinstance(report, UnreadFile)]),
    )


def _of(kind: type[Kind], reports: Sequence[Report]) -> list[Kind]:
    return [report for report in reports if isinstance(report, kind)]


def _models(plans: Sequence[DecompositionPlan]) -> list[str]:
    """Names of the models that the plans are of, as far as they are known."""
    return [plan.settings.model for plan in plans if plan.settings is not None]


def _numbered(sections: Sequence[Section]) -> Iterator[Section]:
    """The sections, with keys that differ."""
    counts: dict[str, int] = {}
    for section in sections:
        number = counts[section.key] = counts.get(section.key, 0) + 1
        yield section if number == 1 else Section(f"{section.key}-{number}", section.title, section.parts)


def _summary(reports: Sequence[Report], plans: Sequence[DecompositionPlan], words: Words) -> list[Section]:
    scores: list[Card | None] = [score_card(report, words) for report in _of(ScoreReport, reports)]
    scores = scores or [search_card(found, words) for found in _of(SearchResult, reports)]
    scores = scores or [agreement_card(report, words) for report in _of(ValidationReport, reports)]
    latencies = [latency_card(report, words) for report in _of(BenchmarkReport, reports)]
    latencies = latencies or [proof_card(plan, words) for plan in plans]
    costs = [card for plan in plans for card in plan_cards(plan, words)]
    cards = tuple(card for card in (*scores, *latencies, *costs) if card is not None)
    return [Section("summary", words["summary"], (Cards(cards),))] if cards else []


def _environment(reports: Sequence[Report], runs: Sequence[RunRecord], words: Words) -> list[Section]:
    devices = [report.device for report in reports if isinstance(report, BenchmarkReport | ValidationReport)]
    facts = [fact for device in devices for fact in _device(device, words)]
    for run in runs:
        if run.device not in [device.name for device in devices]:
            facts.append((words["device"], run.device))
        facts += [(words["began"], run.began), (words["duration"], f"{run.seconds:.0f} s"), *run.versions.items()]
    exports = [*_of(ExportReport, reports), *(report.model for report in _of(AscendReport, reports))]
    facts += [fact for export in exports for fact in export.versions.items()]
    return [Section("environment", words["environment"], (Facts(tuple(dict.fromkeys(facts))),))] if facts else []


def _device(device: DeviceInfo, words: Words) -> list[tuple[str, str]]:
    name = f"{device.name} ({device.family})"
    return [(words["device"], name), (words["memory"], in_gib(device.total_memory)), *device.versions.items()]
