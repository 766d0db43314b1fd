"""The plan: for every Conv2d of a model a verdict, the reason, and the factors."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor, nn

from ..._report.report import Report
from ..._report.table import Table
from ..._run.process_group import joined_processes
from ..._run.turns import one_at_a_time
from ..calibration.evaluation import Outcome
from ..calibration.layer_fit import Fit
from ..info_file.schema import Entry
from ..methods import get_method
from ..methods.weight_group import split_of
from ..model.chain import Split
from ..model.layers import survey
from ..model.spec import LayerSpec
from .apply import apply_plan, checked_path
from .render import tables_of


@dataclass(frozen=True)
class LayerPlan:
    """What the plan says of one Conv2d.

    Attributes
    ----------
    names
        Every name of the layer, in the order of named_modules.
    spec
        Its geometry; None where it has none that can be read (a quantised or scripted layer).
    decompose
        The verdict: whether the layer is decomposed, or kept.
    reason
        The reason for the verdict, in words.
    method, mode, ranks
        How it is split, or would have been where only the gain is missing; else None.
    parameters, parameters_after
        Numbers of weights and biases before and after.
    macs, macs_after
        Multiply-accumulates on the example inputs before and after; None without example inputs.
    error
        Relative error of the composed weight in the Frobenius norm; None for a kept layer.
    factors
        Weights of the layers that replace it, on the CPU; empty for a kept layer.
    bias
        The corrected or added bias of the last of them, on the CPU; None where the layer keeps its own.
    fingerprint
        Of the weight that was factored, and of the bias that was corrected, to see whether they have changed
        when the plan is applied.
    response_error, plain_response_error
        With calibration, the relative error ‖difference‖ / ‖response‖ of the layer's response on the held-out
        batches, in the decomposed network, and the same in a network of plain splits of the same ranks: what the
        layers before it leave out is in both.
    fit
        With calibration, how the factors were fitted to it.
    """

    names: tuple[str, ...]
    spec: LayerSpec | None
    decompose: bool
    reason: str
    method: str | None = None
    mode: str | None = None
    ranks: tuple[int, ...] | None = None
    parameters: int | None = None
    parameters_after: int | None = None
    macs: int | None = None
    macs_after: int | None = None
    error: float | None = None
    factors: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)
    bias: Tensor | None = field(default=None, repr=False, compare=False)
    fingerprint: int = field(default=0, repr=False, compare=False)
    response_error: float | None = None
    plain_response_error: float | None = None
    fit: Fit | None = None

    @property
    def name(self) -> str:
        """The first name of the layer."""
        return self.names[0]

    @property
    def rank(self) -> int | None:
        """The rank of a split that has one; None where it has several, or there is no split."""
        return self.ranks[0] if self.ranks is not None and len(self.ranks) == 1 else None

    @property
    def split(self) -> Split:
        """How a decomposed layer is split."""
        method = get_method(cast(str, self.method))
        return split_of(
            method, cast(LayerSpec, self.spec), cast("tuple[int, ...]", self.ranks), added_bias=self.added_bias
        )

    @property
    def entries(self) -> list[Entry]:
        """What the information file says of a decomposed layer, one entry a name."""
        return [Entry(name, self.split) for name in self.names]

    @property
    def added_bias(self) -> bool:
        """Whether the layer gets a bias that it has not."""
        return self.bias is not None and not cast(LayerSpec, self.spec).bias


@dataclass(frozen=True)
class DecompositionPlan(Report):
    """What would be done to a model, to be read before it is done.

    Attributes
    ----------
    layers
        One `LayerPlan` for every Conv2d, in the order of named_modules.
    parameters, parameters_after
        Number of parameters of the whole model before and after.
    outcome
        With calibration, what the decomposed model's outputs are like; else None.
    together
        Whether several processes of a group made it, and are to apply it, together.
    """

    layers: tuple[LayerPlan, ...]
    parameters: int
    parameters_after: int
    outcome: Outcome | None = None
    together: bool = False

    def tables(self) -> list[Table]:
        """One table: a row for each layer, and a summary below."""
        return tables_of(self)

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
            The model given; only where that is itself a Conv2d, a new module.
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
        with one_at_a_time(), joined_processes(self.together) as processes:
            place = checked_path(decompose_info_path, processes)
            return apply_plan(self, survey(model), place, processes)

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
        from .plan_file import save_plan  # which imports this file

        save_plan(self, path)
