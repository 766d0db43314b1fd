"""What would replace the layers of a model, to be tried in it before any of them is replaced."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..methods.weight_group import Factors, WeightGroup
from ..model.chain import DecomposedLayer
from ..model.replace import bias_for, build_chain, parameters_like


def chains_for(
    group: WeightGroup, factors: Factors, biases: Sequence[Tensor | None] | None = None
) -> dict[nn.Module, DecomposedLayer]:
    """For each layer of a group what would replace it, with these biases or its own."""
    chains: dict[nn.Module, DecomposedLayer] = {}
    biases = [None] * len(group.layers) if biases is None else biases
    for layer, module, bias in zip(group.layers, group.modules, biases, strict=True):
        split = group.split_of(layer, factors.ranks, added_bias=bias is not None and module.bias is None)
        own = None if bias is None else bias_for(module, bias)
        chains[module] = build_chain(module, split, parameters_like(module.weight, factors.weights), own)
    return chains
