"""The sections on a plan: its layers, and those that it keeps, by reason."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._report.html.parts import Bar, Cell, Groups, Rows, Section, Text
from .._report.table import Column
from .._report.units import change_in_percent, in_units
from ..tensor_decompose.plan.layer_plan import LayerPlan
from ..tensor_decompose.plan.plan import DecompositionPlan
from ..tensor_decompose.plan.reasons import common_reasons, essence
from .numbers import ranks
from .words import Words, said


def plan_sections(plan: DecompositionPlan, words: Words) -> list[Section]:
    """A table of the layers, and the names of those that are kept, grouped by reason.

    Parameters
    ----------
    plan
        The plan.
    words
        The language.
    """
    if not plan.layers:
        return [Section("layers", words["layers"], (Text(said(plan.why_empty, words) or words["no_layers"]),))]
    notes = ["" if plan.settings is None else str(plan.settings), plan.budget]
    notes += ["" if plan.outcome is None else str(plan.outcome), "" if plan.latency is None else str(plan.latency)]
    table = _table(plan.layers, words, tuple(said(note, words) for note in notes if note))
    count = sum(layer.decompose for layer in plan.layers)
    summary = Text(words["layers_summary"].format(count=count, all=len(plan.layers)))
    sections = [Section("layers", words["layers"], (summary, table))]
    if count < len(plan.layers):
        sections.append(Section("kept", words["kept"], (Groups(_by_reason(plan.layers, words)),)))
    return sections


def _table(layers: Sequence[LayerPlan], words: Words, notes: tuple[str, ...]) -> Rows:
    has_macs = any(layer.macs is not None for layer in layers)
    has_plain = any(layer.plain_response_error is not None for layer in layers)
    columns = [
        Column(words["layer"], "name"),
        Column(words["geometry"]),
        Column(words["verdict"], "verdict"),
        Column(words["method"]),
        Column(words["rank"], "number"),
        *([Column("MACs", "number"), Column(words["macs_change"], "number")] if has_macs else []),
        Column(words["parameters"], "number"),
        Column(words["response_error" if has_plain else "weight_error"], "number"),
        *([Column(words["plain_error"], "number")] if has_plain else []),
    ]
    most = max([layer.macs or 0 for layer in layers]) or 1
    largest = max([layer.parameters or 0 for layer in layers]) or 1
    rows = [
        (
            Cell(_names(layer, words)),
            Cell("" if layer.spec is None else f"{layer.spec.kind} {layer.spec}"),
            Cell(words["decomposed" if layer.decompose else "kept_layer"]),
            Cell(_method(layer) if layer.decompose else ""),
            _ranks(layer),
            *(_change(layer.macs, layer.macs_after, most, with_change=True) if has_macs else ()),
            *_change(layer.parameters, layer.parameters_after, largest),
            _error(layer.response_error if has_plain else layer.error),
            *((_error(layer.plain_response_error),) if has_plain else ()),
        )
        for layer in layers
    ]
    return Rows(words["layers_table"], tuple(columns), tuple(rows), (words["bars"], *notes))


def _method(layer: LayerPlan) -> str:
    return ", ".join(dict.fromkeys(filter(None, (layer.method, layer.mode))))


def _ranks(layer: LayerPlan) -> Cell:
    return Cell(ranks(layer.ranks), float(sum(layer.ranks or ()))) if layer.decompose else Cell("")


def _names(layer: LayerPlan, words: Words) -> str:
    return " = ".join(name or words["the_model"] for name in layer.names)


def _change(before: int | None, after: int | None, most: int, *, with_change: bool = False) -> tuple[Cell, ...]:
    if before is None:
        return (Cell(""),) * (1 + with_change)
    after = before if after is None else after
    text = in_units(before) if after == before else f"{in_units(before)} → {in_units(after)}"
    cell = Cell(text, float(before), Bar(before / most, after / most))
    if not with_change:
        return (cell,)
    return cell, Cell(change_in_percent(before, after) if after != before else "", after / before if before else None)


def _error(error: float | None) -> Cell:
    if error is None or math.isnan(error):
        return Cell("")
    return Cell(f"{error:.3f}", error, Bar(1.0, min(error, 1.0)))


def _by_reason(layers: Sequence[LayerPlan], words: Words) -> tuple[tuple[str, tuple[str, ...]], ...]:
    reasons = {_names(layer, words): essence(layer.reason) for layer in layers if not layer.decompose}
    return tuple((said(reason, words), tuple(names)) for reason, names in common_reasons(reasons))
