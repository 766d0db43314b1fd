"""`amct-decompose report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from .options import GeneralOptions, option
from .result import Result

_OUTPUT = "Output"


@dataclass(frozen=True)
class ReportOptions:
    """What the page is made of, and where it is written."""

    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Output folder of other verbs.", rich_help_panel="Reports")
    ]
    output: Annotated[
        str | None, option(_OUTPUT, "The page (default FOLDER/report.html); replaced.", "FILE", "--output", "-o")
    ] = None
    lang: Annotated[str, option(_OUTPUT, "Language: en (default) or zh.", "en|zh")] = "en"


def report(options: ReportOptions, general: GeneralOptions) -> Result:
    """Write all reports of an output folder as one HTML page, to be read without a network.

    Exit code 1 where a file of the folder could not be read; the page then names it.
    """
    from .. import report as page
    from .._report.table import Table
    from .output_folder import REPORT

    reports = page.load_reports(options.folder)
    path = options.output or f"{options.folder}/{REPORT}"
    page.save_report(path, reports, language=options.lang)  # type: ignore[arg-type]  # it says which there are
    unread = [found for found in reports if isinstance(found, page.UnreadFile)]
    written = Table(f"{path}: {len(reports) - len(unread)} reports")
    tables = [written, *(table for one in unread for table in one.tables())]
    content = {"path": path, "unread": [{"name": one.name, "why": one.why} for one in unread]}
    return Result(tables, content, ok=not unread)
