"""What a search has found, as data, as a table, as a figure, and as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..._report.figure import Axis, Figure, Level, Series
from ..._report.json_file import JsonReport
from ..._report.marks import marked
from ..._report.picture import save_picture
from ..._report.table import Column, Table
from ..plan.plan import DecompositionPlan

Cost = Literal["macs", "parameters", "latency"]
"""What a search makes least."""

_WORDS = {"macs": "MACs", "parameters": "parameters", "latency": "latency"}


@dataclass(frozen=True)
class Evaluation:
    """A plan that was tried.

    Attributes
    ----------
    share
        Its budget, as a share of what the original takes; 1 for the original itself.
    cost
        What it takes, as a share of that too.
    score
        What ``evaluate`` returned for it.
    accepted
        Whether the score is within the drop that is allowed.
    seconds
        How long it took to plan and to evaluate.
    from_journal
        Whether an earlier run evaluated it.
    """

    share: float
    cost: float
    score: float
    accepted: bool
    seconds: float
    from_journal: bool


@dataclass(frozen=True)
class SearchResult(JsonReport):
    """What `search_decomposition` found; prints as a table, and ``found.plan.apply(model)`` carries it out.

    Attributes
    ----------
    plan
        The cheapest plan whose score is within the drop; one that keeps every layer where there is none. It is not in
        the JSON file, but has a file of its own: ``found.plan.save(path)``.
    minimise
        What was made least: "macs", "parameters" or "latency".
    drop
        How far the score was allowed to fall, in the units of the score.
    evaluations
        What was tried, in this order; the first is the original.
    stopped
        Why it ended before the last evaluation that was allowed; empty if it did not.
    standard_error
        That of the difference between the original's score and one just within the drop, at most, in the units of the
        score; None where the number of samples was not given.
    """

    json_format: ClassVar[str] = "amct_pytorch.search"
    json_left_out: ClassVar[tuple[str, ...]] = ("plan",)

    plan: DecompositionPlan
    minimise: Cost
    drop: float
    evaluations: tuple[Evaluation, ...]
    stopped: str
    standard_error: float | None

    @property
    def original(self) -> Evaluation:
        """The evaluation of the original."""
        return self.evaluations[0]

    @property
    def chosen(self) -> Evaluation:
        """The evaluation of the plan; of the original where nothing cheaper was accepted."""
        return min((one for one in self.evaluations if one.accepted), key=lambda one: one.cost)

    @property
    def curve(self) -> tuple[tuple[float, float], ...]:
        """(cost, score) of everything that was tried, the cheapest first."""
        return tuple(sorted((one.cost, one.score) for one in self.evaluations))

    def tables(self) -> list[Table]:
        """One table: a row for everything that was tried, in order, and a summary below."""
        rows = [
            (
                "original" if number == 0 else f"{self.minimise}={one.share:g}",
                f"{one.cost:.1%}",
                f"{one.score:.6g}",
                "" if number == 0 else f"{one.score - self.original.score:+.3g}",
                marked(self._verdict(one)),
                f"{one.seconds:.1f}",
                "journal" if one.from_journal else "",
            )
            for number, one in enumerate(self.evaluations)
        ]
        columns = [Column("budget"), Column(f"{self._what} left", "number"), *_COLUMNS]
        shown = len(columns) if any(one.from_journal for one in self.evaluations) else len(columns) - 1
        return [Table("", tuple(columns[:shown]), tuple(row[:shown] for row in rows), self._notes)]

    def figures(self) -> list[Figure]:
        """One figure: the scores by what they cost, with the plan chosen."""
        percents = tuple((100 * cost, score) for cost, score in self.curve)
        return [
            Figure(
                Axis(f"{self._what} left / %", scale="log"),
                Axis("score"),
                (Series("tried", percents), Series("chosen", ((100 * self.chosen.cost, self.chosen.score),))),
                (Level("original", self.original.score), Level("least allowed", self.original.score - self.drop)),
            )
        ]

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the figure with matplotlib.

        Parameters
        ----------
        path
            The file to write, in the format of its suffix, such as .png, .svg or .pdf; an existing one is replaced,
            missing folders are created.

        Raises
        ------
        MissingExtra
            matplotlib is not installed.
        ConfigError
            The argument is not a path, or matplotlib has no format of its suffix.
        ReportAccessError
            The file cannot be written. An existing file is then unchanged.
        """
        save_picture(self.figures(), path)

    @property
    def _what(self) -> str:
        return _WORDS[self.minimise]

    def _verdict(self, one: Evaluation) -> str:
        if one is self.chosen:
            return "chosen"
        if one is self.original:
            return ""
        return "accepted" if one.accepted else "rejected"

    @property
    def _notes(self) -> tuple[str, ...]:
        chosen = self.chosen
        if chosen is self.original:
            note = f"Nothing cheaper than the original has a score within {self.drop:g} of its: every layer is kept."
        else:
            note = (
                f"Chosen: {chosen.cost:.1%} of the {self._what}, score {chosen.score:.6g}, which is "
                f"{chosen.score - self.original.score:+.3g} where {-self.drop:.3g} is allowed."
            )
        notes = [note, f"Stopped early: {self.stopped}." if self.stopped else ""]
        if self.standard_error is not None:
            noisy = " The drop allowed is below that: which plan is chosen is partly chance."
            notes.append(
                f"Standard error of the difference of two scores: {self.standard_error:.2g} at most."
                f"{noisy * (self.drop < self.standard_error)}"
            )
        return tuple(filter(None, notes))


_COLUMNS = (
    Column("score", "number", priority=5),
    Column("change", "number", priority=4),
    Column("verdict", "verdict", priority=6),
    Column("seconds", "number", priority=2),
    Column("from", priority=1),
)
