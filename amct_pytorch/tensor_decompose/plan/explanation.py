"""Everything that a plan knows of each layer, with exact numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..._report.report import Report
from ..._report.table import Table
from ..._report.units import change_in_percent
from ..model.spec import kernels_of
from .layer_plan import LayerPlan
from .render import header, is_by_rule, names_of

if TYPE_CHECKING:
    from .plan import DecompositionPlan


# Those of AMCT's split: which end of the channels comes first, and which axis of the kernel.
_AMCT_MODES = ("SCFK", "SCSK", "FCFK", "FCSK")


@dataclass(frozen=True)
class PlanExplanation(Report):
    """A plan in full: what `DecompositionPlan.explain` returns, which prints a paragraph for each layer.

    Attributes
    ----------
    plan
        The plan.
    """

    plan: DecompositionPlan

    def tables(self) -> list[Table]:
        """The totals, then a table of text only for each layer."""
        plan = self.plan
        if not plan.layers:
            return plan.tables()
        totals = (header(plan, _exact), plan.budget, str(plan.outcome or ""))
        return [Table("\n".join(filter(None, totals))), *(_paragraph(layer, plan) for layer in plan.layers)]


def _paragraph(layer: LayerPlan, plan: DecompositionPlan) -> Table:
    spec = layer.spec
    facts = {
        "verdict": f"decomposed by {layer.method}: {kernels_of(layer.split.stages)}" if layer.decompose else "kept",
        "reason": f"{layer.reason}{' (rule amct)' * (not layer.decompose and is_by_rule(layer, plan))}",
        "rank": ", ".join(map(str, layer.ranks or ())),
        "AMCT's mode": layer.mode if layer.mode in _AMCT_MODES else "",
        "parameters": _exact(layer.parameters, layer.parameters_after),
        "MACs": _exact(layer.macs, layer.macs_after),
        "weight error": _error(layer.error),
        "response error": _error(layer.response_error),
        "of a plain split": _error(layer.plain_response_error),
        "fit": "" if layer.fit is None else f"{layer.fit}{', bias added' if layer.added_bias else ''}",
    }
    title = names_of(layer) if spec is None else f"{names_of(layer)}: {spec.kind} {spec}"
    return Table(title, notes=tuple(f"  {name}: {text}" for name, text in facts.items() if text))


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.6f}"


def _exact(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return ""
    if after == before:
        return f"{before:,}"
    return f"{before:,} → {after:,} ({change_in_percent(before, after)})"
