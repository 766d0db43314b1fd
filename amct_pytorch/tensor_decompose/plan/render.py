"""What a plan shows: a row for all layers alike, totals above, and why layers are kept below."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..._report.marks import marked_split
from ..._report.name_patterns import patterns_of
from ..._report.table import Column, Table
from ..._report.units import change_in_percent, from_to, in_units
from ...errors import ConfigError
from ..methods.registry import methods_named
from ..model.spec import common_kind, kernels_of
from .layer_plan import LayerPlan
from .reasons import common_reasons, essence

if TYPE_CHECKING:
    from .plan import DecompositionPlan

# Patterns of names that are listed in a note; the other layers are counted.
_MOST_NAMES = 4


@dataclass(frozen=True)
class _Row:
    """Layers alike.

    Attributes
    ----------
    name
        Their names, as one pattern.
    layers
        The layers; what the table shows of them is the same, but for their errors.
    """

    name: str
    layers: tuple[LayerPlan, ...]

    @property
    def first(self) -> LayerPlan:
        return self.layers[0]


def tables_of(plan: DecompositionPlan) -> list[Table]:
    """A plan as one table; columns that are empty for every layer are left out.

    Parameters
    ----------
    plan
        The plan.
    """
    if not plan.layers:
        return [Table(plan.why_empty or "The plan has no layers.")]
    rows = _rows(plan.layers)
    kind = _kind(plan.layers)
    geometry: _Shown = (
        Column(kind or "geometry", priority=3),
        lambda row: _geometry(row.first, kind),
    )
    cells = [(column, [cell(row) for row in rows]) for column, cell in (_NAME, geometry, *_COLUMNS)]
    columns, by_column = zip(*((column, found) for column, found in cells if any(found)), strict=True)
    notes = [_merged(rows), *_fitted(plan.layers), *_kept(plan), plan.budget, str(plan.outcome or "")]
    return [Table(header(plan, from_to), columns, tuple(zip(*by_column, strict=True)), tuple(filter(None, notes)))]


def header(plan: DecompositionPlan, change: Callable[[int, int], str]) -> str:
    """What the plan was made for and by, how many layers are decomposed, and the totals, a line each.

    Parameters
    ----------
    plan
        A plan with layers.
    change
        Writes a number before and after.
    """
    layers, made = plan.layers, plan.settings
    kind = _kind(layers)
    count = sum(layer.decompose for layer in layers)
    what = f"{count} of {len(layers)} {kind or 'layers'} are decomposed."
    lines = [what] if made is None else [f"{made.model}: {what}", f"{str(made)[0].upper()}{str(made)[1:]}."]
    lines.append(f"Parameters of the model: {change(plan.parameters, plan.parameters_after)}.")
    counted = [(layer.macs, layer.macs_after) for layer in layers if layer.macs is not None]
    if counted:
        before, after = (sum(number or 0 for number in side) for side in zip(*counted, strict=True))
        lines.append(f"MACs of {f'its {kind}' if kind else 'these layers'}: {change(before, after)}.")
    return "\n".join(lines)


def _kind(layers: Sequence[LayerPlan]) -> str:
    """What all of the layers are, as far as it is known; empty where they are of several kinds."""
    return common_kind(layer.spec.kind for layer in layers if layer.spec is not None)


def _geometry(layer: LayerPlan, kind: str) -> str:
    """The geometry of a layer, with what it is unless all are of one kind."""
    if layer.spec is None:
        return ""
    return str(layer.spec) if kind else f"{layer.spec.kind} {layer.spec}"


def names_of(layer: LayerPlan) -> str:
    """All names of a layer, as one."""
    return " = ".join(name or "(the model)" for name in layer.names)


def _rows(layers: Sequence[LayerPlan]) -> list[_Row]:
    """The layers, those that look alike in one row if a pattern expands to their names."""
    alike: dict[object, list[LayerPlan]] = defaultdict(list)
    for number, layer in enumerate(layers):
        alone = None if len(layer.names) == 1 else number
        alike[(alone, *_looks(layer))].append(layer)
    place = {names_of(layer): number for number, layer in enumerate(layers)}
    rows = []
    for same in alike.values():
        for pattern in patterns_of([names_of(layer) for layer in same]):
            numbers = sorted(place[name] for name in pattern.names)
            rows.append(_Row(pattern.text, tuple(layers[number] for number in numbers)))
    return sorted(rows, key=lambda row: place[names_of(row.first)])


def _looks(layer: LayerPlan) -> tuple[object, ...]:
    """What layers in one row have in common. Where the rank of a decomposed one comes from is left to ``explain``."""
    sizes = (layer.parameters, layer.parameters_after, layer.macs, layer.macs_after)
    split = (layer.method, layer.mode, layer.ranks, layer.added_bias) if layer.decompose else essence(layer.reason)
    return layer.spec, layer.decompose, split, *sizes, layer.fit is None


def _change(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return ""
    return f"{in_units(before)} {change_in_percent(before, after) if after != before else '–':>5}"


def _range(errors: Sequence[float | None]) -> str:
    """The least and the greatest error, where there are any."""
    texts = [f"{error:.3f}" for error in sorted(error for error in errors if error is not None)]
    return "" if not texts else texts[0] if texts[0] == texts[-1] else f"{texts[0]}–{texts[-1]}"


def _merged(rows: Sequence[_Row]) -> str:
    several = next((row for row in rows if len(row.layers) > 1), None)
    if several is None:
        return ""
    count = len(several.layers)
    return f"×{count}: {count} layers alike; the numbers are of each, the errors from the least to the greatest."


def _fitted(layers: Sequence[LayerPlan]) -> list[str]:
    """What calibration did to some layers that is not done to all: added biases, and fits in another mode."""
    notes = []
    biased = [names_of(layer) for layer in layers if layer.decompose and layer.added_bias]
    if biased:
        notes.append(_line("bias added", biased))
    fits = {names_of(layer): layer.fit for layer in layers if layer.fit is not None}
    odd = {name: f"by {fit.mode} ({fit.note})" for name, fit in fits.items() if fit.note}
    return notes + [_line("fitted", names, how) for how, names in common_reasons(odd)]


def _kept(plan: DecompositionPlan) -> list[str]:
    """Why layers are kept, a line for each reason."""
    reasons = {
        names_of(layer): f"{essence(layer.reason).removeprefix('kept ')}{' (rule amct)' * is_by_rule(layer, plan)}"
        for layer in plan.layers
        if not layer.decompose
    }
    return [_line("kept", names, reason) for reason, names in common_reasons(reasons)]


def is_by_rule(layer: LayerPlan, plan: DecompositionPlan) -> bool:
    """Whether a layer that is kept would not be with ``rule="any"``."""
    if plan.settings is None or plan.settings.rule != "amct" or layer.spec is None:
        return False
    try:
        named = methods_named(plan.settings.method)
    except ConfigError:  # a plan from a file, by a method that is not installed here
        return False
    methods = [method for method in named if method.why_not(layer.spec) is None]
    return any((reason := method.unadvised(layer.spec)) and reason in layer.reason for method in methods)


def _line(what: str, names: Sequence[str], why: str = "") -> str:
    """What layers have in common: how many they are, why, and the first few names."""
    patterns = patterns_of(names)
    shown = patterns[:_MOST_NAMES]
    more = len(names) - sum(len(pattern.names) for pattern in shown)
    text = ", ".join(pattern.text for pattern in shown) + f" and {more} more" * bool(more)
    return f"{what}: {len(names)} layer{'s' * (len(names) > 1)}{f', {why}' * bool(why)}: {text}."


_Shown = tuple[Column, Callable[[_Row], str]]

_NAME: _Shown = (
    Column("layer", "name"),
    lambda row: f"{row.name} ×{len(row.layers)}" if len(row.layers) > 1 else row.name,
)
# Where there is little room, the split and the ranks are kept, then the error and the MACs.
_COLUMNS: tuple[_Shown, ...] = (
    (
        Column("split", "verdict", priority=9),
        lambda row: marked_split(kernels_of(row.first.split.stages) if row.first.decompose else ""),
    ),
    (
        Column("rank", "number", priority=8),
        lambda row: ", ".join(map(str, row.first.ranks or ())) if row.first.decompose else "",
    ),
    (Column("parameters", "number", priority=4), lambda row: _change(row.first.parameters, row.first.parameters_after)),
    (Column("MACs", "number", priority=6), lambda row: _change(row.first.macs, row.first.macs_after)),
    (
        Column("weight error", "number", priority=7),
        lambda row: _range([layer.error for layer in row.layers if layer.fit is None]),
    ),
    (
        Column("response error", "number", priority=7),
        lambda row: _range([layer.response_error for layer in row.layers]),
    ),
)
