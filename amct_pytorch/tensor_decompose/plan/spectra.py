"""The spectra of the weights that a plan splits, with the ranks chosen: as data, as a table, a figure, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import nn

from ..._report.figure import Axis, Figure, Series
from ..._report.json_file import JsonReport
from ..._report.table import Column, Table
from ..._run.interrupts import interrupt_if_pressed, interrupts_deferred
from ..._run.turns import one_at_a_time
from ..config import DecompositionConfig
from ..methods.linalg import exact_matmul
from ..methods.weight_group import WeightGroup
from ..model.layers import Layer, survey
from ..ranks.spectrum import Spectrum, Unfolding
from .apply import layer_as_planned
from .layer_plan import LayerPlan
from .plan import DecompositionPlan

# Singular values that are kept of each spectrum: a curve drawn through so many looks like the whole.
_KEPT = 24


@dataclass(frozen=True)
class RankSpectrum:
    """The singular values among which one rank of a split was chosen.

    Attributes
    ----------
    rank, full_rank
        The rank chosen, and the one at which nothing is left out.
    left_out
        Share of the energy, the sum of squared singular values, beyond the rank chosen.
    numbers
        Which singular values are kept here, counted from 1: the first ones, and further ones ever farther apart.
    values
        These singular values, each divided by the largest of all.
    """

    rank: int
    full_rank: int
    left_out: float
    numbers: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class LayerSpectrum:
    """The spectrum of the weight of one layer, as the method sees it that splits it.

    Attributes
    ----------
    name
        The first name of the layer.
    method
        Name of the method.
    ranks
        One `RankSpectrum` for each rank of the split.
    """

    name: str
    method: str
    ranks: tuple[RankSpectrum, ...]


@dataclass(frozen=True)
class SpectraReport(JsonReport):
    """What `layer_spectra` computed; prints as a table.

    Attributes
    ----------
    layers
        One `LayerSpectrum` for each layer that is decomposed, in the order of the plan.
    """

    json_format: ClassVar[str] = "amct_pytorch.spectra"

    layers: tuple[LayerSpectrum, ...]

    def tables(self) -> list[Table]:
        """One table: a row for each rank of each layer."""
        rows = [
            (layer.name or "(the model)", layer.method, f"{one.rank:,}", f"{one.full_rank:,}", f"{one.left_out:.2%}")
            for layer in self.layers
            for one in layer.ranks
        ]
        return [Table("", _COLUMNS, tuple(rows), ("Energies are those of the weights alone, without data.",))]

    def figures(self) -> list[Figure]:
        """A figure for each layer: its singular values, and where they are cut."""
        return [spectrum_figure(layer) for layer in self.layers]


def spectrum_figure(layer: LayerSpectrum) -> Figure:
    """The singular values of a layer by their numbers, with a vertical line at each rank chosen.

    Parameters
    ----------
    layer
        The spectrum.
    """
    series = []
    for one in layer.ranks:
        series.append(Series("singular values", tuple(zip(map(float, one.numbers), one.values, strict=True))))
        series.append(Series("rank", ((float(one.rank), 0.0), (float(one.rank), 1.0))))
    widest = float(max(one.full_rank for one in layer.ranks))
    x, y = Axis("number", limits=(1.0, widest)), Axis("singular value, relative", limits=(0.0, 1.0))
    return Figure(x, y, tuple(series), title=layer.name)


def layer_spectra(model: nn.Module, plan: DecompositionPlan) -> SpectraReport:
    """The spectra of the weights that a plan decomposes, in the norm of the weights alone.

    Parameters
    ----------
    model
        The model that the plan was made from, not yet decomposed; it is not changed.
    plan
        The plan.

    Returns
    -------
    SpectraReport
        Empty where the plan decomposes nothing. Of each spectrum some singular values are kept, see `RankSpectrum`.

    Raises
    ------
    ModelError, LayerError
        It is not the model that the plan was made from.
    """
    with one_at_a_time(), interrupts_deferred(second_at_once=True), torch.inference_mode(False), torch.no_grad():
        layers = {layer.names: layer for layer in survey(model).layers}
        planned = [one for one in plan.layers if one.decompose]
        groups = [_group_of(one, layers) for one in planned]
        seen: dict[tuple[int, str], Spectrum] = {}
        found = []
        with exact_matmul():
            for one, group in zip(planned, groups, strict=True):
                key = (id(group.modules[0].weight), group.method.name)
                if key not in seen:
                    seen[key] = group.spectrum().keeping([0] * len(group.method.full_ranks(group.spec)))
                found.append(_layer_spectrum(one, seen[key]))
                interrupt_if_pressed()
    return SpectraReport(tuple(found))


def _group_of(planned: LayerPlan, layers: Mapping[tuple[str, ...], Layer]) -> WeightGroup:
    """The weight of a planned layer, to be split as planned."""
    layer_as_planned(planned, layers)
    return WeightGroup((layers[planned.names],), DecompositionConfig(method=cast(str, planned.method)))


def _layer_spectrum(planned: LayerPlan, spectrum: Spectrum) -> LayerSpectrum:
    ranks = cast("tuple[int, ...]", planned.ranks)
    found = tuple(_at(part, rank) for part, rank in zip(spectrum.unfoldings, ranks, strict=True))
    return LayerSpectrum(planned.name, cast(str, planned.method), found)


def _at(part: Unfolding, rank: int) -> RankSpectrum:
    singulars = part.singulars
    numbers = _spread(len(singulars), rank)
    largest = float(singulars[0]) or 1.0
    values = tuple(float(f"{singulars[number - 1] / largest:.4g}") for number in numbers)
    return RankSpectrum(rank, len(singulars), part.left_out(rank), numbers, values)


def _spread(count: int, rank: int) -> tuple[int, ...]:
    """Some of the numbers from 1 to a count, in about equal ratios, the rank among them."""
    steps = range(_KEPT - 1)
    ratio = count ** (1 / (_KEPT - 2))
    numbers: Sequence[int] = range(1, count + 1) if count <= _KEPT else [round(ratio**step) for step in steps]
    return tuple(sorted({*numbers, rank}))


_COLUMNS = (
    Column("layer", "name"),
    Column("method", priority=1),
    Column("rank", "number", priority=4),
    Column("of", "number", priority=3),
    Column("energy left out", "number", priority=2),
)
