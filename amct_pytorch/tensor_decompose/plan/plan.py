"""The plan: for every Conv2d of a model a verdict, the reason, and the factors; how it reads, how it is applied."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from ..._report.table import format_table
from ..._run.process_group import ProcessGroup as Team
from ..._run.process_group import joined_processes
from ..._storage.atomic import check_writable, sync_folder_of, write_text
from ...errors import LayerError
from ..calibration.evaluation import Outcome
from ..calibration.layer_fit import Fit
from ..info_file.schema import Entry, dump, entries_of_rows
from ..model.layers import check_model, rows_of, slots, survey
from ..model.replace import Replacement, bias_for, build_row, parameters_like, replaced
from ..model.spec import ConvSpec


@dataclass(frozen=True)
class LayerPlan:
    """What the plan says of one Conv2d.

    Attributes
    ----------
    names
        Every name of the layer, in the order of named_modules.
    conv
        Its geometry; None where it has none that can be read (a quantised or scripted layer).
    decompose
        The verdict: whether the layer is decomposed, or kept.
    reason
        The reason for the verdict, in words.
    method, mode, rank
        How it is split, or would have been where only the gain is missing; else None.
    parameters, parameters_after
        Numbers of weights and biases before and after.
    macs, macs_after
        Multiply-accumulates on the example inputs before and after; None without example inputs.
    error
        Relative error of the composed weight in the Frobenius norm; None for a kept layer.
    factors
        Weights of the convolutions that replace it, on the CPU; empty for a kept layer.
    bias
        The corrected bias of the last one, or the one added, on the CPU; None where the layer's own stays.
    fingerprint
        Of the weight that was factored, and of the bias that was corrected, to tell whether they have changed
        when the plan is applied.
    response_error, plain_response_error
        With calibration, the relative error ‖difference‖ / ‖response‖ of the layer's response on the batches held
        back, in the decomposed network, and the same in a network of plain splits of the same ranks: what the
        layers before it leave out is in both.
    fit
        With calibration, how the factors were fitted to it.
    """

    names: tuple[str, ...]
    conv: ConvSpec | None
    decompose: bool
    reason: str
    method: str | None = None
    mode: str | None = None
    rank: int | None = None
    parameters: int | None = None
    parameters_after: int | None = None
    macs: int | None = None
    macs_after: int | None = None
    error: float | None = None
    factors: tuple[torch.Tensor, ...] = field(default=(), repr=False, compare=False)
    bias: torch.Tensor | None = field(default=None, repr=False, compare=False)
    fingerprint: int = field(default=0, repr=False, compare=False)
    response_error: float | None = None
    plain_response_error: float | None = None
    fit: Fit | None = None

    @property
    def name(self) -> str:
        """The first name of the layer."""
        return self.names[0]

    @property
    def entries(self) -> list[Entry]:
        """What the information file says of a decomposed layer, one entry a name."""
        conv, method, rank = cast(ConvSpec, self.conv), cast(str, self.method), cast(int, self.rank)
        return [Entry(name, method, conv, rank, self.added_bias) for name in self.names]

    @property
    def added_bias(self) -> bool:
        """Whether the layer gets a bias that it has not."""
        return self.bias is not None and not cast(ConvSpec, self.conv).bias


@dataclass(frozen=True)
class DecompositionPlan:
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
        Whether several ranks of a process group made it, and are to apply it, together.
    """

    layers: tuple[LayerPlan, ...]
    parameters: int
    parameters_after: int
    outcome: Outcome | None = None
    together: bool = False

    def __str__(self) -> str:
        if not self.layers:
            return "The model has no Conv2d."
        return f"{_table(self.layers)}\n\n{self._summary()}"

    def apply(
        self, model: nn.Module, decompose_info_path: str | os.PathLike[str] | None = None
    ) -> tuple[nn.Module, dict[str, list[str]]]:
        """Decompose the model in place as planned.

        Ranks that made the plan together apply it together; the first alone writes the file.

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
        InfoFileAccessError
            The file cannot be written. After any error model and file are as they were.
        ProcessFailed
            Another process of those that made the plan has failed.
        """
        with joined_processes(self.together) as ranks:
            return self._apply(model, decompose_info_path, ranks)

    def _apply(
        self, model: nn.Module, decompose_info_path: str | os.PathLike[str] | None, ranks: Team
    ) -> tuple[nn.Module, dict[str, list[str]]]:
        check_model(model)
        if decompose_info_path is not None and ranks.index == 0:
            check_writable(decompose_info_path)
        replacements = self._replacements(model)
        if decompose_info_path is None:
            with replaced(model, replacements) as result:
                ranks.gather(None)  # what fails on one rank is undone on all
            return result
        planned = [entry for layer in self.layers if layer.decompose for entry in layer.entries]
        entries = {entry.name: entry for entry in [*planned, *entries_of_rows(rows_of(model))]}
        text = dump([entries[name] for name in ["", *slots(model)] if name in entries])
        with replaced(model, replacements) as result:
            if ranks.index == 0:
                write_text(decompose_info_path, text)
            ranks.gather(None)
        if ranks.index == 0:
            sync_folder_of(decompose_info_path)
        return result

    def _replacements(self, model: nn.Module) -> list[Replacement]:
        found = {item.names: item for item in survey(model)}
        shared: dict[tuple[int, int], list[nn.Parameter]] = {}
        replacements = []
        for layer in self.layers:
            if not layer.decompose:
                continue
            item = found.get(layer.names)
            if item is None or item.why_not is not None or item.conv != layer.conv:
                raise LayerError(
                    f"layer {layer.name!r}: the plan expects a Conv2d {layer.conv}, found "
                    f"{'none of that name' if item is None else item.why_not or item.module}: "
                    "apply the plan to the model it was made from, once, or make a new plan"
                )
            conv = cast(nn.Conv2d, item.module)
            if conv.weight.is_meta or fingerprint(conv, layer.bias is not None) != layer.fingerprint:
                what = "weight has" if layer.bias is None else "weight or bias has"
                raise LayerError(f"layer {layer.name!r}: its {what} changed since the plan was made: make a new plan")
            key = (id(layer.factors), id(conv.weight))
            if key not in shared:
                shared[key] = parameters_like(conv.weight, layer.factors)
            bias = None
            if layer.bias is not None:
                bias_key = (id(layer.bias), id(conv.bias))
                if bias_key not in shared:
                    shared[bias_key] = [bias_for(conv, layer.bias)]
                (bias,) = shared[bias_key]
            row = build_row(conv, layer.entries[0].stages, shared[key], bias)
            replacements.append(Replacement(layer.names, conv, row))
        return replacements

    def _summary(self) -> str:
        count = sum(layer.decompose for layer in self.layers)
        text = (
            f"{count} of {len(self.layers)} Conv2d are decomposed. Parameters of the model: "
            f"{_total(self.parameters, self.parameters_after)}."
        )
        counted = [layer for layer in self.layers if layer.macs is not None]
        if counted:
            before = sum(cast(int, layer.macs) for layer in counted)
            after = sum(cast(int, layer.macs_after) for layer in counted)
            text += f" MACs of its Conv2d: {_total(before, after)}."
        return text if self.outcome is None else f"{text}\n{self.outcome}"


def fingerprint(conv: nn.Conv2d, with_bias: bool) -> int:
    """A number that changes when the layer's weight does, or its bias."""
    mark = 0
    for parameter in (conv.weight, conv.bias) if with_bias and conv.bias is not None else (conv.weight,):
        mark = zlib.crc32(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data, mark)
    return mark


def _table(layers: Sequence[LayerPlan]) -> str:
    header = ["layer", "Conv2d", "verdict", "mode", "rank", "parameters", "MACs", "error", "plain", "fit", "reason"]
    calibrated = any(layer.fit is not None for layer in layers)
    rows = [
        [
            " = ".join(name or "(the model)" for name in layer.names),
            str(layer.conv or ""),
            "decompose" if layer.decompose else "keep",
            layer.mode or "",
            _count(layer.rank),
            _change(layer.parameters, layer.parameters_after),
            _change(layer.macs, layer.macs_after),
            _error(layer.response_error if calibrated else layer.error),
            _error(layer.plain_response_error),
            "" if layer.fit is None else f"{layer.fit}{', bias added' if layer.added_bias else ''}",
            layer.reason,
        ]
        for layer in layers
    ]
    shown = [index for index in range(len(header)) if any(row[index] for row in rows)]
    return format_table(
        [header[index] for index in shown],
        [[row[index] for index in shown] for row in rows],
        right=("rank", "parameters", "MACs", "error", "plain"),
    )


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.3f}"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _change(before: int | None, after: int | None) -> str:
    return _count(before) if after is None or after == before else f"{_count(before)} → {_count(after)}"


def _total(before: int, after: int) -> str:
    return f"{before:,} → {after:,} ({(after - before) / max(before, 1):+.1%})"
