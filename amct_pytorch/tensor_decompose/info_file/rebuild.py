"""From the entries of an information file to the layers that they describe, with weights still to be loaded."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from ...errors import InfoFileError, listed, quoted
from ..model.chain import DecomposedLayer
from ..model.layers import Layer, Slot
from ..model.replace import Replacement, bias_for, build_chain, parameters_like
from ..model.spec import Axes, LayerModule, LayerSpec
from ..model.split import Split
from .schema import Entry


def rebuilt(
    entries: Sequence[Entry],
    layers: Sequence[Layer],
    chains: Mapping[str, DecomposedLayer],
    places: Mapping[str, Slot],
) -> list[Replacement]:
    """What replaces the layers of a model so that it gets the structure of the entries.

    Parameters
    ----------
    entries
        The file's entries, checked against the geometry of the model's layers.
    layers
        What `survey` found in the model.
    chains
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
        if entry.name in chains:
            _check_same(entry, chains[entry.name])
        else:
            named[id(layer_of[entry.name].module)].append(entry)
    generator = torch.Generator("cpu").manual_seed(0)
    shared: dict[tuple[int, str, tuple[Axes, ...]], list[nn.Parameter]] = {}
    replacements = []
    for group in named.values():
        _check_alike(group)
        split = group[0].split
        layer = layer_of[group[0].name]
        module = cast(LayerModule, layer.module)
        named_places = {places.get(entry.name) for entry in group}
        names = tuple(name for name in layer.names if places.get(name) in named_places)
        # A method may split layers of one weight in forms of different shapes.
        key = (id(module.weight), split.method, tuple(stage.weight_shape for stage in split.stages))
        if key not in shared:
            weights = [_initial_weight(stage, module.weight.device, generator) for stage in split.stages]
            shared[key] = parameters_like(module.weight, weights)
        bias = bias_for(module, torch.zeros(split.layer.out_channels, device="cpu")) if split.added_bias else None
        replacements.append(Replacement(names, module, build_chain(module, split, shared[key], bias)))
    return replacements


def untied(replacements: Sequence[Replacement], layers: Sequence[Layer]) -> list[str]:
    """What the user should know of layers and weights that a file splits in some of their places only."""
    names_of = {layer.module: layer.names for layer in layers}
    sentences = [
        f"the layer {quoted(item.names[0])} is also {listed(others)}, which the file does not name: "
        "it stays as it was there, and is a separate layer from now on"
        for item in replacements
        if (others := [name for name in names_of[item.layer] if name not in item.names])
    ]
    chain_of = {item.layer: item.chain for item in replacements}
    for item in replacements:
        apart = [
            layer.names[0]
            for layer in layers
            if layer.module is not item.layer
            and getattr(layer.module, "weight", None) is item.layer.weight
            and not (layer.module in chain_of and chain_of[layer.module][0].weight is item.chain[0].weight)
        ]
        if apart:
            sentences.append(
                f"the layer {quoted(item.names[0])} shares its weight with {listed(apart)}, which the file "
                "does not split alike: their weights are apart from now on"
            )
    return sentences


def _check_alike(entries: Sequence[Entry]) -> None:
    first = entries[0]
    for entry in entries[1:]:
        if entry.split != first.split:
            raise InfoFileError(
                f"{quoted(first.name)} and {quoted(entry.name)} are one layer of the model: expected both to be split "
                "alike, "
                f"found {_described(first.split)} and {_described(entry.split)}"
            )


def _check_same(entry: Entry, chain: DecomposedLayer) -> None:
    found = chain.split_as_it_is()
    if found != entry.split:
        described = "a chain that was changed" if found is None else _described(found)
        raise InfoFileError(
            f"{quoted(entry.name)} is decomposed already, and not as the file says: expected "
            f"{_described(entry.split)}, "
            f"found {described}: begin with the model before decomposition"
        )


def _described(split: Split) -> str:
    ranks = ", ".join(map(str, split.ranks))
    text = f"rank {ranks}" if len(split.ranks) == 1 else f"ranks {ranks}"
    if split.method != "separable":
        text += f" by {split.method}"
    return text + (" and an added bias" if split.added_bias else "")


def _initial_weight(stage: LayerSpec, device: torch.device, generator: torch.Generator) -> torch.Tensor:
    """What a new layer would begin with; without values on the meta device."""
    if device.type == "meta":
        return torch.empty(stage.weight_shape, device="meta")
    weight = torch.empty(stage.weight_shape, device="cpu", dtype=torch.float32)
    return nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
