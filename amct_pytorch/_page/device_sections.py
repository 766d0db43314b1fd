"""The sections on what a device was seen to do: speed, and correctness."""

from __future__ import annotations

import math

from .._measure.benchmark_report import BenchmarkReport, BenchmarkRun, LayerBenchmark
from .._measure.cpu_share import LEAST_SHARE
from .._measure.kernel_summary import KernelProfile
from .._measure.timing import UNKNOWN, Comparison
from .._measure.validation_report import DtypeValidation, ValidationReport
from .._report.html.parts import Bar, Cell, Rows, Section, Text
from .._report.table import Column
from .._report.units import in_gib, in_ms, name_of, settings_line
from .numbers import percent, ranks
from .words import Words, said, verdict_in


def benchmark_section(report: BenchmarkReport, words: Words, key: str) -> Section:
    """A table for each run, with a row for the whole model and one for each layer, and how far it can be trusted.

    Parameters
    ----------
    report
        What was measured.
    words
        The language.
    key
        That of the section.
    """
    title = words["speed"].format(device=report.device.name)
    return Section(key, title, tuple(_run(run, words) for run in report.runs))


def title_of(run: BenchmarkRun, words: Words) -> str:
    """Type, batch and mode of a run in words.

    Parameters
    ----------
    run
        The run.
    words
        The language.
    """
    batch = [] if run.batch_size is None else [words["batch"].format(size=run.batch_size)]
    return words["comma"].join([name_of(run.dtype), *batch, words["compiled" if run.compiled else "eager"]])


def speed_up_of(comparison: Comparison, words: Words) -> str:
    """The speed-up with its interval, or that the verdict is withheld, and why.

    Parameters
    ----------
    comparison
        The times.
    words
        The language.
    """
    if comparison.speed_up.verdict == UNKNOWN:
        got = comparison.cpu_share
        why = said(comparison.doubt or "", words)
        if got is not None and got < LEAST_SHARE:
            why = words["little_cpu"].format(share=f"{100 * got:.0f} %")
        return words["withheld"].format(why=why)
    return f"{comparison.speed_up} {verdict_in(comparison.speed_up.verdict, words)}"


def _run(run: BenchmarkRun, words: Words) -> Rows:
    columns = (
        Column(words["layer"], "name"),
        Column(words["chain"]),
        Column(words["rank"], "number"),
        Column(words["left_macs"], "number"),
        Column(words["time_before"], "number"),
        Column(words["time_after"], "number"),
        Column(words["speed_up"], "number"),
        Column(words["verdict"], "verdict"),
        Column(words["cpu_share"], "number"),
    )
    longest = max([layer.comparison.before.median for layer in run.layers if layer.comparison], default=1.0)
    whole = (
        Cell(words["whole_model"]),
        *[Cell("")] * 3,
        *_times(run.model, run.profile, run.model.before.median, words),
    )
    notes = [words["times_note"], _sizes(run, words), settings_line(run.settings)]
    if run.fallbacks:
        notes.append(words["fallbacks"].format(operators=", ".join(run.fallbacks)))
    rows = (whole, *(_layer(layer, longest, words) for layer in run.layers))
    return Rows(title_of(run, words), columns, rows, (*filter(None, notes), *(said(note, words) for note in run.notes)))


def _layer(layer: LayerBenchmark, longest: float, words: Words) -> tuple[Cell, ...]:
    left = layer.macs_after / layer.macs if layer.macs else None
    return (
        Cell(layer.name or words["the_model"]),
        Cell(layer.mode),
        Cell(ranks(layer.ranks), float(sum(layer.ranks))),
        Cell("" if left is None else percent(left), left),
        *(
            (*[Cell("")] * 3, Cell(verdict_in("did not run", words)), Cell(""))
            if layer.comparison is None
            else _times(layer.comparison, layer.profile, longest, words)
        ),
    )


def _times(comparison: Comparison, profile: KernelProfile | None, longest: float, words: Words) -> tuple[Cell, ...]:
    before, after, speed_up = comparison.before.median, comparison.after.median, comparison.speed_up
    known = not math.isnan(speed_up.ratio)
    got = comparison.cpu_share
    verdict = verdict_in(speed_up.verdict, words)
    # A process that did not get the CPU keeps the device waiting, but the program is not to blame.
    if known and profile is not None and profile.host_bound:
        verdict += f", {words['host_bound']}"
    return (
        Cell(in_ms(before), before),
        Cell(in_ms(after), after, Bar(min(before / longest, 1.0), min(after / longest, 1.0))),
        Cell(str(speed_up) if known else "", speed_up.ratio if known else None),
        Cell(verdict),
        Cell("" if got is None else f"{100 * got:.0f} %", got),
    )


def _sizes(run: BenchmarkRun, words: Words) -> str:
    if run.peak_memory is None or run.peak_memory_after is None:
        return ""
    return words["peak_memory"].format(before=in_gib(run.peak_memory), after=in_gib(run.peak_memory_after))


def validation_section(report: ValidationReport, words: Words, key: str) -> Section:
    """For each floating-point type the outputs, and a table with a row for each layer.

    Parameters
    ----------
    report
        What was found.
    words
        The language.
    key
        That of the section.
    """
    title = words["validation"].format(device=report.device.name)
    verdict = Text(f"✓ {words['all_right']}" if report.ok else f"✗ {words['some_wrong']}")
    return Section(key, title, (verdict, _outputs(report, words), *(_validated(run, words) for run in report.runs)))


def _outputs(report: ValidationReport, words: Words) -> Rows:
    columns = (
        Column(words["dtype"], "name"),
        Column(words["output_error"], "number"),
        Column(words["agreement"], "number"),
        Column(words["tolerance"], "number"),
    )
    rows = tuple(
        (
            Cell(name_of(run.dtype)),
            Cell("–" if run.output_error is None else f"{run.output_error:.3g}", run.output_error),
            Cell("–" if run.top1_agreement is None else f"{100 * run.top1_agreement:.2f} %", run.top1_agreement),
            Cell(f"{run.tolerance.norm:.1e}", run.tolerance.norm),
        )
        for run in report.runs
    )
    return Rows(words["outputs"], columns, rows, (words["outputs_note"],))


def _validated(run: DtypeValidation, words: Words) -> Rows:
    columns = (
        Column(words["layer"], "name"),
        Column(words["chain"]),
        Column(words["rank"], "number"),
        Column(words["device_error"], "number"),
        Column(words["worst"], "number"),
        Column(words["response_error"], "number"),
        Column(words["verdict"], "verdict"),
    )
    rows = tuple(
        (
            Cell(layer.name or words["the_model"]),
            Cell(layer.mode),
            Cell(ranks(layer.ranks), float(sum(layer.ranks))),
            *(_in_exponents(layer.device_error), _in_exponents(layer.device_worst)),
            Cell("–")
            if math.isnan(layer.response_error)
            else Cell(f"{layer.response_error:.3f}", layer.response_error),
            Cell(verdict_in(layer.verdict, words)),
        )
        for layer in run.layers
    )
    notes = [settings_line(run.settings), *(said(note, words) for note in run.notes)]
    if run.fallbacks:
        notes.append(words["fallbacks"].format(operators=", ".join(run.fallbacks)))
    return Rows(name_of(run.dtype), columns, rows, tuple(filter(None, notes)))


def _in_exponents(error: float) -> Cell:
    return Cell("–") if math.isnan(error) else Cell(f"{error:.1e}", error)
