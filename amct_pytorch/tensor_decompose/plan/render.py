"""What a plan shows: a row for each layer, and a summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from ..._report.table import Column, Table
from ..calibration.evaluation import Outcome
from ..model.spec import common_kind
from .layer_plan import LayerPlan

_Shown = tuple[Column, Callable[[LayerPlan], str]]


def tables_of(
    layers: Sequence[LayerPlan],
    parameters: int,
    parameters_after: int,
    outcome: Outcome | None,
    budget: str,
    why_empty: str,
) -> list[Table]:
    """A plan as tables; columns that are empty for every layer are left out.

    Parameters
    ----------
    layers
        What is planned for every layer.
    parameters, parameters_after
        Numbers of parameters of the whole model.
    outcome
        What comes of the plan, on calibration data.
    budget
        A sentence on what was chosen for a budget, if there was one.
    why_empty
        A sentence for a plan without layers.
    """
    if not layers:
        return [Table(why_empty or "The plan has no layers.")]
    kind = _kind(layers)
    geometry = (
        Column(kind or "geometry", priority=3),
        lambda layer: "" if layer.spec is None else str(layer.spec) if kind else f"{layer.spec.kind} {layer.spec}",
    )
    shown = (_NAME, geometry, *_COLUMNS)
    cells = [(column, [cell(layer) for layer in layers]) for column, cell in shown]
    columns, by_column = zip(*((column, found) for column, found in cells if any(found)), strict=True)
    notes = [_summary(layers, parameters, parameters_after), budget, "" if outcome is None else str(outcome)]
    return [Table("", columns, tuple(zip(*by_column, strict=True)), tuple(filter(None, notes)))]


def _summary(layers: Sequence[LayerPlan], parameters: int, parameters_after: int) -> str:
    count = sum(layer.decompose for layer in layers)
    kind = _kind(layers)
    text = (
        f"{count} of {len(layers)} {kind or 'layers'} are decomposed. Parameters of the model: "
        f"{_total(parameters, parameters_after)}."
    )
    counted = [layer for layer in layers if layer.macs is not None]
    if counted:
        before = sum(cast(int, layer.macs) for layer in counted)
        after = sum(cast(int, layer.macs_after) for layer in counted)
        text += f" MACs of {f'its {kind}' if kind else 'these layers'}: {_total(before, after)}."
    return text


def _kind(layers: Sequence[LayerPlan]) -> str:
    """What all of the layers are, as far as it is known; empty where they are of several kinds."""
    return common_kind(layer.spec.kind for layer in layers if layer.spec is not None)


def _names(layer: LayerPlan) -> str:
    return " = ".join(name or "(the model)" for name in layer.names)


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.3f}"


def _fit(layer: LayerPlan) -> str:
    return "" if layer.fit is None else f"{layer.fit}{', bias added' if layer.added_bias else ''}"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _change(before: int | None, after: int | None) -> str:
    return _count(before) if after is None or after == before else f"{_count(before)} → {_count(after)}"


def _total(before: int, after: int) -> str:
    return f"{before:,} → {after:,} ({(after - before) / max(before, 1):+.1%})"


_NAME: _Shown = (Column("layer", "name"), _names)
# Where there is little room, the verdict, the ranks and the error are kept, with as much of the reason as fits.
_COLUMNS: tuple[_Shown, ...] = (
    (Column("verdict", priority=9), lambda layer: "decompose" if layer.decompose else "keep"),
    (Column("mode", priority=2), lambda layer: layer.mode or ""),
    (Column("rank", "number", priority=8), lambda layer: ", ".join(map(_count, layer.ranks or ()))),
    (Column("parameters", "number", priority=4), lambda layer: _change(layer.parameters, layer.parameters_after)),
    (Column("MACs", "number", priority=5), lambda layer: _change(layer.macs, layer.macs_after)),
    (
        Column("error", "number", priority=7),
        lambda layer: _error(layer.error if layer.fit is None else layer.response_error),
    ),
    (Column("plain", "number", priority=1), lambda layer: _error(layer.plain_response_error)),
    (Column("fit", "prose", priority=0), _fit),
    (Column("reason", "prose", priority=6), lambda layer: layer.reason),
)
