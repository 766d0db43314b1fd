"""The section on a search: scores by cost, with the plan chosen, and everything that was tried."""

from __future__ import annotations

from dataclasses import replace

from .._report.figure import Figure
from .._report.html.parts import Cell, Picture, Rows, Section, Text
from .._report.table import Column
from ..tensor_decompose.search.result import Evaluation, SearchResult
from .numbers import percent, signed
from .words import Words, said


def search_section(found: SearchResult, words: Words) -> Section:
    """The curve, and a table with a row for each evaluation.

    Parameters
    ----------
    found
        What the search has found.
    words
        The language.
    """
    (figure,) = found.figures()
    chosen, original = found.chosen, found.original
    if chosen is original:
        summary = words["nothing_cheaper"].format(drop=f"{found.drop:g}")
    else:
        summary = words["chosen_summary"].format(
            cost=percent(chosen.cost),
            what=words[f"cost_{found.minimise}"],
            score=f"{chosen.score:.6g}",
            change=signed(chosen.score - original.score),
            drop=f"{found.drop:g}",
        )
    return Section(
        "search",
        words["search"],
        (Text(summary), Picture(_translated(figure, found, words), summary), _table(found, words)),
    )


def _translated(figure: Figure, found: SearchResult, words: Words) -> Figure:
    names = {"tried": words["tried"], "chosen": words["chosen"], "original": words["original"]}
    names["least allowed"] = words["least_allowed"]
    return replace(
        figure,
        x=replace(figure.x, label=f"{words[f'left_{found.minimise}']} / %"),
        y=replace(figure.y, label=words["score"]),
        series=tuple(replace(series, name=names[series.name]) for series in figure.series),
        levels=tuple(replace(level, name=names[level.name]) for level in figure.levels),
    )


def _table(found: SearchResult, words: Words) -> Rows:
    columns = (
        Column(words["budget"]),
        Column(words[f"left_{found.minimise}"], "number"),
        Column(words["score"], "number"),
        Column(words["score_change"], "number"),
        Column(words["verdict"], "verdict"),
        Column(words["seconds"], "number"),
    )
    rows = tuple(
        (
            Cell(words["original"] if number == 0 else f"{one.share:.3g}", one.share),
            Cell(percent(one.cost), one.cost),
            Cell(f"{one.score:.6g}", one.score),
            Cell("" if number == 0 else signed(one.score - found.original.score), one.score - found.original.score),
            Cell(_verdict(one, found, words)),
            Cell(f"{one.seconds:.1f}", one.seconds),
        )
        for number, one in enumerate(found.evaluations)
    )
    notes = [words["stopped"].format(why=said(found.stopped, words)) if found.stopped else ""]
    if found.standard_error is not None:
        notes.append(words["standard_error"].format(error=f"{found.standard_error:.2g}"))
        notes.append(words["chance"] if found.drop < found.standard_error else "")
    return Rows(words["evaluations"], columns, rows, tuple(filter(None, notes)))


def _verdict(one: Evaluation, found: SearchResult, words: Words) -> str:
    if one is found.chosen:
        return f"◆ {words['chosen']}"
    if one is found.original:
        return ""
    return f"✓ {words['accepted']}" if one.accepted else f"✗ {words['rejected']}"
