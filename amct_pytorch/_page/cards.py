"""The cards at the top of the page, each from a report and the words of a language; what was not measured has none."""

from __future__ import annotations

from .._measure.benchmark_report import BenchmarkReport
from .._measure.timing import UNKNOWN
from .._measure.validation_report import ValidationReport
from .._report.html.parts import Card
from .._report.scores import ScoreReport
from .._report.units import change_in_percent, in_ms, in_units
from ..tensor_decompose.plan.plan import DecompositionPlan
from ..tensor_decompose.search.result import SearchResult
from .device_sections import speed_up_of, title_of
from .numbers import percent, signed
from .words import Words


def score_card(report: ScoreReport, words: Words) -> Card:
    """The score of a task."""
    unit = f" {report.unit}" if report.unit else ""
    note = [] if report.samples is None else [words["on_samples"].format(count=f"{report.samples:,}")]
    if report.fine_tuned is not None:
        note.append(words["before_tuning"].format(score=f"{report.after:.6g}{unit}"))
    unit_of_change = f" {words['points']}" if report.unit == "%" else unit
    return Card(
        report.metric,
        f"{report.before:.5g}{unit}",
        f"{report.final:.5g}{unit}",
        f"{signed(report.final - report.before)}{unit_of_change}",
        words["comma"].join(note),
    )


def search_card(found: SearchResult, words: Words) -> Card:
    """The score that a search has chosen by."""
    before, after = found.original.score, found.chosen.score
    return Card(words["score"], f"{before:.5g}", f"{after:.5g}", signed(after - before), words["of_search"])


def agreement_card(report: ValidationReport, words: Words) -> Card | None:
    """How far the outputs agree with the original's, in the first type that it was measured in."""
    for run in report.runs:
        if run.top1_agreement is not None:
            return Card(words["agreement"], "", f"{100 * run.top1_agreement:.2f} %", note=words["of_validation"])
        if run.output_error is not None:
            return Card(words["output_error"], "", f"{run.output_error:.3g}", note=words["of_validation"])
    return None


def latency_card(report: BenchmarkReport, words: Words) -> Card | None:
    """The time of a forward pass, in the first run."""
    if not report.runs:
        return None
    run = report.runs[0]
    comparison = run.model
    return Card(
        words["latency"],
        f"{in_ms(comparison.before.median)} ms",
        f"{in_ms(comparison.after.median)} ms",
        speed_up_of(comparison, words),
        words["comma"].join((report.device.name, title_of(run, words))),
        doubtful=comparison.speed_up.verdict == UNKNOWN,
    )


def proof_card(plan: DecompositionPlan, words: Words) -> Card | None:
    """The time that a plan for a budget of latency was seen to take."""
    proof = plan.latency
    if proof is None:
        return None
    interval = f"[{percent(proof.low)}, {percent(proof.high)}]"
    note = words["of_plan"].format(device=proof.device)
    return Card(words["latency"], "100 %", percent(proof.measured), interval, note)


def plan_cards(plan: DecompositionPlan, words: Words) -> list[Card]:
    """Multiply-accumulates, where they were counted, and parameters."""
    counted = [layer for layer in plan.layers if layer.macs is not None and layer.macs_after is not None]
    cards = []
    if counted:
        before = sum(layer.macs or 0 for layer in counted)
        after = sum(layer.macs_after or 0 for layer in counted)
        cards.append(_cost(words["macs"], before, after, words["of_layers"]))
    if plan.parameters:
        cards.append(_cost(words["parameters"], plan.parameters, plan.parameters_after, words["of_model"]))
    return cards


def _cost(label: str, before: int, after: int, note: str) -> Card:
    return Card(label, in_units(before), in_units(after), change_in_percent(before, after), note)
