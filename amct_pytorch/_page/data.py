"""The data behind the page, to be embedded in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._report.json_file import JsonReport, plain_data
from .._report.report import Report
from ..tensor_decompose.plan.plan import DecompositionPlan

_TABLES = ("layers", "evaluations")
"""Lists of objects that are long, and turned into columns."""

_LEFT_OUT = ("samples", "factors", "bias", "fingerprint")
"""What is in the reports' own files alone: each single time, and the weights of a plan."""

_DIGITS = 6
"""Significant digits of what is no whole number: more than was measured."""


def data_of(reports: Sequence[Report]) -> dict[str, Any]:
    """What each report holds as plain data, by the name of its format, with a number after it from the second on.

    Numbers that are not whole have six significant digits. Layers and evaluations are objects of lists, a column for
    each field, which take a third of the room: ``pandas.DataFrame(data["plan"]["layers"])``. Fields of fields are
    columns with a dot in their name, ``"spec.in_channels"``; what is missing is null.

    Parameters
    ----------
    reports
        The reports.
    """
    data: dict[str, Any] = {}
    for report in reports:
        content = _content(report)
        name = str(content["format"]).removeprefix("amct_pytorch.")
        keys = (name, *(f"{name}-{number}" for number in range(2, len(reports) + 1)))
        data[next(key for key in keys if key not in data)] = _compact(content)
    return data


def _content(report: Report) -> dict[str, Any]:
    if isinstance(report, JsonReport):
        return report.content()
    assert isinstance(report, DecompositionPlan), "every other report is saved as JSON"
    return {"format": "amct_pytorch.plan", **plain_data(report)}


def _compact(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, list):
        return [_compact(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _columns(item) if key in _TABLES else _compact(item)
        for key, item in value.items()
        if not _is_left_out(key, item)
    }


def _is_left_out(key: str, value: Any) -> bool:
    # The number of samples of a score, or of a fit, has the same name as the list of single times.
    return key in _LEFT_OUT and not (key == "samples" and not isinstance(value, list))


def _columns(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    flat = [_flat(_compact(record)) for record in records]
    names = dict.fromkeys(name for record in flat for name in record)
    return {name: [record.get(name) for record in flat] for name in names}


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= {f"{key}.{name}": item for name, item in _flat(value).items()}
        elif value is not None:
            found[key] = value
    return found
