"""The plan: for every layer of a model a verdict, the reason, and the factors."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from torch import nn

from ..._report.report import Report
from ..._report.table import Table
from ..._run.interrupts import interrupts_deferred
from ..._run.process_group import joined_processes
from ..._run.turns import one_at_a_time
from ..._storage.records import to_plain
from ..calibration.evaluation import Outcome
from ..methods.latencies import LatencyProof
from ..model.layers import survey
from .apply import apply_plan, checked_path
from .explanation import PlanExplanation
from .layer_plan import LayerPlan
from .plan_file import read_plan_file, write_plan_file
from .render import tables_of
from .settings import PlanSettings


@dataclass(frozen=True)
class DecompositionPlan(Report):
    """What would be done to a model, to be read before it is done.

    Attributes
    ----------
    layers
        One `LayerPlan` for every layer of the kinds that the methods in use are for, and for those that rules name, in
        the order of named_modules.
    parameters, parameters_after
        Number of parameters of the whole model before and after.
    outcome
        With calibration, what the decomposed model's outputs are like; else None.
    together
        Whether several processes of a group made it, and are to apply it, together.
    budget
        What was chosen for a budget, in words; empty without one.
    latency
        For a budget of latency, what was measured of the decomposed model; else None.
    why_empty
        Where there is no layer, a sentence that says so, and what to do where the model computes all the same what
        such layers do; else empty. Not saved.
    settings
        What it was made for, and by which settings; None for a plan from a file of a release that did not save that.
    """

    layers: tuple[LayerPlan, ...]
    parameters: int
    parameters_after: int
    outcome: Outcome | None = None
    together: bool = False
    budget: str = ""
    latency: LatencyProof | None = None
    why_empty: str = field(default="", compare=False)
    settings: PlanSettings | None = field(default=None, compare=False)

    def tables(self) -> list[Table]:
        """One table: the totals above, a row for each layer or for several alike, and why layers are kept below."""
        return tables_of(self)

    def explain(self) -> PlanExplanation:
        """The whole plan: of each layer the exact numbers, the reason, and how it was fitted.

        For a budget, the reason says what the next better and the next cheaper choice would change.

        Returns
        -------
        PlanExplanation
            A report to be printed: ``print(plan.explain())``.
        """
        return PlanExplanation(self)

    def apply(
        self, model: nn.Module, decompose_info_path: str | os.PathLike[str] | None = None
    ) -> tuple[nn.Module, dict[str, list[str]]]:
        """Decompose the model in place as planned.

        Processes that made the plan together apply it together; the first alone writes the file.

        Parameters
        ----------
        model
            The model that the plan was made from, its weights unchanged since.
        decompose_info_path
            Where to write the decomposition information file; None writes none.

        Returns
        -------
        model : torch.nn.Module
            The model given; only where that is itself a layer, a new module.
        changes : dict
            Names of the new layers by the name of the layer they replace:
            ``{"conv1": ["conv1.0", "conv1.1"], …}``.

        Raises
        ------
        ModelError, LayerError
            It is not the model that the plan was made from.
        ConfigTypeError, InfoFileAccessError
            The path is none, or the file cannot be written. After any error model and file are as they were.
        ProcessFailed
            Another process of those that made the plan has failed.
        """
        with one_at_a_time(), interrupts_deferred(second_at_once=True), joined_processes(self.together) as processes:
            place = checked_path(decompose_info_path, processes)
            return apply_plan(self.layers, survey(model), place, processes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan with its factors to a file, to be applied later or elsewhere; `load_plan` reads it.

        Parameters
        ----------
        path
            Of the file. An existing one is replaced, missing folders are made.

        Raises
        ------
        ConfigTypeError, PlanFileAccessError
            The path is none, or the file cannot be written; an earlier file is as it was.
        """
        with interrupts_deferred():
            write_plan_file(to_plain(self, leave_out=("layers", "why_empty")), self.layers, path)


def load_plan(path: str | os.PathLike[str]) -> DecompositionPlan:
    """Read a plan from a file that `DecompositionPlan.save` wrote.

    Parameters
    ----------
    path
        Of the file.

    Returns
    -------
    DecompositionPlan
        To be applied to the model that it was made from, or one with the same layers and weights: that is checked
        when it is applied.

    Raises
    ------
    ConfigTypeError, PlanFileAccessError
        The path is none, or the file cannot be read.
    PlanFileError
        It is no plan, damaged, of another release, or by a method that is not registered here.
    """
    return read_plan_file(DecompositionPlan, path)
