"""What a plan shows: a row for each layer, and a summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..._report.table import Column, Table

if TYPE_CHECKING:  # the plan itself imports this file
    from .plan import DecompositionPlan, LayerPlan


def tables_of(plan: DecompositionPlan) -> list[Table]:
    """The plan as tables; columns that are empty for every layer are not among theirs."""
    if not plan.layers:
        return [Table("The model has no Conv2d.")]
    cells = [(column, [cell(layer) for layer in plan.layers]) for column, cell in _COLUMNS]
    columns, by_column = zip(*((column, found) for column, found in cells if any(found)), strict=True)
    return [Table("", columns, tuple(zip(*by_column, strict=True)), _summary(plan))]


def _summary(plan: DecompositionPlan) -> tuple[str, ...]:
    count = sum(layer.decompose for layer in plan.layers)
    text = (
        f"{count} of {len(plan.layers)} Conv2d are decomposed. Parameters of the model: "
        f"{_total(plan.parameters, plan.parameters_after)}."
    )
    counted = [layer for layer in plan.layers if layer.macs is not None]
    if counted:
        before = sum(cast(int, layer.macs) for layer in counted)
        after = sum(cast(int, layer.macs_after) for layer in counted)
        text += f" MACs of its Conv2d: {_total(before, after)}."
    return (text,) if plan.outcome is None else (text, str(plan.outcome))


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


# Where there is little room, the verdict, the ranks and the error are kept, with as much of the reason as fits.
_COLUMNS: tuple[tuple[Column, Callable[[LayerPlan], str]], ...] = (
    (Column("layer", "name"), _names),
    (Column("Conv2d", priority=3), lambda layer: str(layer.spec or "")),
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
