"""The section on exported files: what was written, and whether it computes the same."""

from __future__ import annotations

from .._deploy.export_report import ExportCheck, ExportReport
from .._report.html.parts import Cell, Facts, Part, Rows, Section, Text
from .._report.table import Column
from .._report.units import in_gib
from ..ascend import AscendReport
from .words import Words, said


def export_section(report: ExportReport, words: Words, key: str) -> Section:
    """An ONNX file, and how far its outputs are from PyTorch's.

    Parameters
    ----------
    report
        What was written and checked.
    words
        The language.
    key
        That of the section.
    """
    return Section(key, words["onnx"], _file(report, words))


def ascend_section(report: AscendReport, words: Words, key: str) -> Section:
    """The files for an Ascend NPU, and what Ascend's tools said of them.

    Parameters
    ----------
    report
        What was written.
    words
        The language.
    key
        That of the section.
    """
    facts = Facts(((words["folder"], report.directory), (words["precision"], report.precision)))
    files = [part for file in (report.model, report.original) if file is not None for part in _file(file, words)]
    rules = [
        Text(
            words["atc_rules"].format(
                file=check.file, rewritten=said("; ".join(check.rewritten), words) or words["nothing"]
            )
        )
        for check in report.parser
    ]
    tools = [Text(said(str(one), words)) for one in (*report.conversions, *report.timings)]
    if not tools:
        tools = [Text(words["no_atc"])]
    parts: list[Part] = [facts, *files, *rules, *tools]
    return Section(key, words["ascend"], tuple(parts))


def _file(report: ExportReport, words: Words) -> tuple[Part, ...]:
    columns = (
        Column(words["inputs"], "name"),
        Column(words["max_difference"], "number"),
        Column(words["mean_difference"], "number"),
        Column(words["relative_difference"], "number"),
        Column(words["onnxruntime"], "verdict"),
    )
    facts = Facts(
        (
            (words["file"], report.path),
            (words["opset"], str(report.opset)),
            (words["size"], in_gib(report.size)),
            (words["exporter"], report.exporter),
        )
    )
    return facts, Rows("", columns, tuple(_check(check, words) for check in report.checks))


def _check(check: ExportCheck, words: Words) -> tuple[Cell, ...]:
    differences = (check.max_difference, check.mean_difference, check.relative_difference)
    return (
        Cell(", ".join("×".join(map(str, shape)) for shape in check.shapes)),
        *(Cell(f"{value:.1e}", value) for value in differences),
        Cell(f"✓ {words['right']}" if check.ok else f"✗ {words['wrong']}"),
    )
