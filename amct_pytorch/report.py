"""Reports as one HTML page that needs nothing beside it, and the reports that an output folder holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ._page.unread import UnreadFile
from ._page.whole_page import KINDS, page_of
from ._page.words import LANGUAGES
from ._report.file import write_report
from ._report.html.page import html_of
from ._report.json_file import JsonReport
from ._report.report import Report
from ._report.run_record import RunRecord
from ._report.scores import ScoreReport
from ._run.arguments import setting_error
from ._storage.json_text import parsed
from ._storage.paths import access_errors, file_to_write, resolved
from ._storage.reading import decoded, read_small
from .errors import AmctError, ConfigError, ConfigTypeError, ReportAccessError, quoted, shown
from .tensor_decompose.plan.plan import DecompositionPlan, load_plan
from .tensor_decompose.search.result import SearchResult

__all__ = ["Report", "RunRecord", "ScoreReport", "UnreadFile", "load_reports", "save_report"]

_PLAN = "plan.*"
"""What a plan's file is called, which is no JSON."""

_OTHERS = frozenset({"decompose_info.json"})
"""JSON files of an output folder that are no reports."""

_OTHER_FORMATS = frozenset({"amct_pytorch.config", "amct_pytorch.checkpoint"})
"""Formats of files of ours that are no reports."""

_READ: Mapping[str, type[JsonReport]] = {kind.json_format: kind for kind in KINDS if issubclass(kind, JsonReport)}
"""The reports that are JSON, by the format that their files name."""

_NO_PLAN = "The plan of the search is in a file of its own, which is not in the folder."


class _Unreadable(ValueError):
    """A file is no report, or not a whole one; the message says why."""


def save_report(
    path: str | os.PathLike[str],
    reports: Report | Iterable[Report],
    *,
    language: Literal["en", "zh"] = "en",
    command: str | None = None,
) -> None:
    """Write reports as one HTML page, with style, script, pictures and all data in it: it loads nothing.

    The page has what was measured and nothing else: cards for the score, the latency, MACs and parameters, the scores
    by what they cost, a table of the layers that can be sorted, those kept by reason, spectra, speed, correctness,
    exported files, the environment, and the command. It reads the same without JavaScript, on a small screen, and on
    paper.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced, missing folders are created.
    reports
        One or several of: a plan, a `SearchResult` (whose plan is shown unless another is given), the reports of
        `layer_spectra`, `benchmark`, `validate`, `export_onnx` and `export_ascend`, a `ScoreReport`, a `RunRecord`;
        in any order. Or what `load_reports` returns.
    language
        "en" or "zh". Reasons and notes that reports hold in English are translated too; why a file could not be read
        stays in English.
    command
        The command that the reports came from, shown on the page; None for that of the `RunRecord`, if there is one.

    Raises
    ------
    MissingExtra
        jinja2 is not installed.
    ConfigError
        The path is empty or invalid, there is no report, or the language is none of these; `ConfigTypeError` if an
        argument has a wrong type.
    ReportAccessError
        The file cannot be written. An existing file is then unchanged.
    """
    place = file_to_write(path, "path", ReportAccessError)
    if not isinstance(language, str) or language not in LANGUAGES:
        raise setting_error(
            f"language: expected one of {', '.join(map(repr, LANGUAGES))}, found {quoted(language)}",
            of_right_type=isinstance(language, str),
        )
    if command is not None and not isinstance(command, str):
        raise ConfigTypeError(f"command: expected a string, found {quoted(command)}")
    page = page_of(_checked(reports), LANGUAGES[language], command)
    # A character that UTF-8 has not, such as half of a surrogate pair in the name of a file, is written as its number.
    write_report(place, html_of(page).encode("utf-8", "backslashreplace"))


def load_reports(folder: str | os.PathLike[str]) -> list[Report]:
    """Read the reports that a folder holds, each by the format that its file names, not by the file's name.

    Parameters
    ----------
    folder
        With files that `save` of a report, or `DecompositionPlan.save`, has written; that of a plan must be called
        plan.pt or the like.

    Returns
    -------
    list
        The reports, in the order of the files' names; an `UnreadFile` for each JSON file that is no report or not a
        whole one. A `SearchResult` has the plan of the folder, or an empty one that says so.

    Raises
    ------
    ConfigError
        The folder has no report; `ConfigTypeError` if it is no path.
    ReportAccessError
        There is no such folder, or it cannot be read.
    """
    place = resolved(folder, "folder", "directory")
    with access_errors(place, "read", ReportAccessError):
        if not place.is_dir():
            found = "a file" if place.exists() else "nothing"
            raise ReportAccessError(f"{shown(place)}: expected a folder with reports, found {found}")
        files = sorted(file for file in place.iterdir() if file.is_file() and file.name not in _OTHERS)
    plans = [_plan(file) for file in files if file.match(_PLAN)]
    plan = next((plan for plan in plans if isinstance(plan, DecompositionPlan)), None)
    others = [_report(file, plan) for file in files if file.suffix == ".json" and not file.match(_PLAN)]
    reports = [report for report in (*plans, *others) if report is not None]
    if not reports:
        raise ConfigError(
            f"{shown(place)}: expected reports, such as plan.pt, search.json or benchmark.json, as the "
            f"command line or save(path) writes them; found none among {len(files)} files"
        )
    return reports


def _plan(file: Path) -> Report:
    try:
        return load_plan(file)
    except AmctError as error:
        return UnreadFile(file.name, _without_folder(error, file))


def _report(file: Path, plan: DecompositionPlan | None) -> Report | None:
    """The report in a file; None where it is one of ours that is no report."""
    try:
        content = _content(file)
        name = content.get("format")
        if not isinstance(name, str) or name not in {*_READ, *_OTHER_FORMATS}:
            raise _Unreadable(f"expected the key 'format' with one of {', '.join(_READ)}, found {quoted(name)}")
        if name in _OTHER_FORMATS:
            return None
        kind = _READ[name]
        own_plan = plan or DecompositionPlan((), 0, 0, why_empty=_NO_PLAN)
        given = {"plan": own_plan} if kind is SearchResult else None
        report = kind.of_content(content, "it", _Unreadable, given)
        if isinstance(report, SearchResult) and not any(one.accepted for one in report.evaluations):
            raise _Unreadable("expected evaluations, the original's among them, found none that is accepted")
        return report
    except (_Unreadable, OSError) as error:
        return UnreadFile(file.name, _without_folder(error, file))


def _content(file: Path) -> dict[str, Any]:
    text = decoded(read_small(file, "report", kind=_Unreadable, content=_Unreadable), file, _Unreadable)
    content = parsed(text, "it", _Unreadable)
    if not isinstance(content, dict):
        raise _Unreadable(f"expected an object, found {type(content).__name__}")
    return content


def _without_folder(error: Exception, file: Path) -> str:
    """An error's message without the file's path, whose name stands before it."""
    return str(error).removeprefix(f"{file}: ").removeprefix(f"{shown(file)}: ")


def _checked(reports: object) -> Sequence[Report]:
    """The reports as a list.

    Raises
    ------
    ConfigTypeError, ConfigError
        Something else is among them, or there are none.
    """
    given: list[Any] = [reports] if isinstance(reports, KINDS) else []
    if not given and isinstance(reports, Iterable) and not isinstance(reports, str | bytes | Mapping):
        given = list(reports)
        if not given:
            raise ConfigError("reports: expected one at least, found none")
    wrong = [report for report in given if not isinstance(report, KINDS)]
    if wrong or not given:
        raise ConfigTypeError(
            "reports: expected reports of amct_pytorch (a plan, a search result, a benchmark, …), found "
            f"{quoted(wrong[0] if wrong else reports)}"
        )
    return given
