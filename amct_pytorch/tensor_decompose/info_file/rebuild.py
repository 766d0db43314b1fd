"""From the entries of an information file to the layers that they describe, with weights still to be loaded."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from ...errors import InfoFileError
from ..model.chain import DecomposedConv2d
from ..model.layers import Found, Slot
from ..model.replace import Replacement, bias_for, build_row, parameters_like
from ..model.spec import ConvSpec
from .schema import Entry


def rebuilt(
    entries: Sequence[Entry],
    layers: Sequence[Found],
    rows: Mapping[str, DecomposedConv2d],
    places: Mapping[str, Slot],
) -> list[Replacement]:
    """What replaces the layers of a model so that it gets the structure of the entries.

    Parameters
    ----------
    entries
        The file's entries, checked against the geometry of the model's layers.
    layers
        What `survey` found in the model.
    rows
        The model's layers that are decomposed already, by name. They are left alone.
    places
        Where each name of the model leads to; in a shared block two names lead to one place.

    Raises
    ------
    InfoFileError
        The entries of one layer under several names differ, or one differs from what is there already.
    """
    layer_of = {name: layer for layer in layers for name in layer.names}
    named: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.name in rows:
            _check_same(entry, rows[entry.name])
        else:
            named[id(layer_of[entry.name].module)].append(entry)
    generator = torch.Generator("cpu").manual_seed(0)
    shared: dict[tuple[int, str, int], list[nn.Parameter]] = {}
    replacements = []
    for group in named.values():
        _check_alike(group)
        entry = group[0]
        layer = layer_of[entry.name]
        conv = cast(nn.Conv2d, layer.module)
        named_places = {places.get(entry.name) for entry in group}
        names = tuple(name for name in layer.names if places.get(name) in named_places)
        key = (id(conv.weight), entry.method, entry.rank)
        if key not in shared:
            weights = [_initial_weight(stage, conv.weight.device, generator) for stage in entry.stages]
            shared[key] = parameters_like(conv.weight, weights)
        bias = bias_for(conv, torch.zeros(conv.out_channels, device="cpu")) if entry.added_bias else None
        row = build_row(conv, entry.stages, shared[key], bias)
        replacements.append(Replacement(names, conv, row))
    return replacements


def untied(replacements: Sequence[Replacement], layers: Sequence[Found]) -> list[str]:
    """What the user should know of layers and weights that a file splits in some of their places only."""
    names_of = {layer.module: layer.names for layer in layers}
    told = [
        f"the layer {item.names[0]!r} is also {', '.join(map(repr, others))}, which the file does not name: "
        "it stays as it was there, and is a layer of its own from now on"
        for item in replacements
        if (others := [name for name in names_of[item.conv] if name not in item.names])
    ]
    row_of = {item.conv: item.row for item in replacements}
    for item in replacements:
        apart = [
            layer.names[0]
            for layer in layers
            if layer.module is not item.conv
            and getattr(layer.module, "weight", None) is item.conv.weight
            and not (layer.module in row_of and row_of[layer.module][0].weight is item.row[0].weight)
        ]
        if apart:
            told.append(
                f"the layer {item.names[0]!r} shares its weight with {', '.join(map(repr, apart))}, which the file "
                "does not split alike: their weights are apart from now on"
            )
    return told


def _check_alike(entries: Sequence[Entry]) -> None:
    first = entries[0]
    for entry in entries[1:]:
        if entry.stages != first.stages:
            raise InfoFileError(
                f"{first.name!r} and {entry.name!r} are one layer of the model: expected both to be split alike, "
                f"found {_described(first.rank, first.added_bias)} and {_described(entry.rank, entry.added_bias)}"
            )


def _check_same(entry: Entry, row: DecomposedConv2d) -> None:
    if row.stages != entry.stages:
        raise InfoFileError(
            f"{entry.name!r} is decomposed already, and not as the file says: expected "
            f"{_described(entry.rank, entry.added_bias)}, found "
            f"{_described(row.stages[0].out_channels, row.added_bias)}: begin with the model before decomposition"
        )


def _described(rank: int, added_bias: bool) -> str:
    return f"rank {rank}" + (" and an added bias" if added_bias else "")


def _initial_weight(stage: ConvSpec, device: torch.device, generator: torch.Generator) -> torch.Tensor:
    """What a new Conv2d would begin with; without values on the meta device."""
    if device.type == "meta":
        return torch.empty(stage.weight_shape, device="meta")
    weight = torch.empty(stage.weight_shape, device="cpu", dtype=torch.float32)
    return nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
