"""Match the decomposed layers of a model with the layers of the original that they replace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn

from .._report.units import ratio_of
from ..errors import LayerError, ModelError, listed, quoted
from ..tensor_decompose.model.chain import DecomposedLayer
from ..tensor_decompose.model.eligibility import geometry_of
from ..tensor_decompose.model.layers import check_model
from ..tensor_decompose.model.spec import LayerModule, LayerSpec, kernels_of

# Advice in messages about an original that was decomposed itself.
_KEEP_A_COPY = (
    "auto_decomposition and plan.apply change the model they are given, so keep the original with copy.deepcopy(model)"
)
# Smallest cosine similarity between a kernel and its split. The cosine of a plain split is the square root of the share
# of energy that it keeps, so 0.1 corresponds to 1 %. One fitted to inputs that layers before have changed much can have
# less. That of two unrelated kernels of n numbers has a standard deviation of 1/√n: beyond six of them it is no chance.
_LEAST_COSINE = 0.1
_CHANCE = 6


@dataclass(frozen=True)
class Pair:
    """A layer of the original model, and the chain that replaces it in the decomposed one.

    Attributes
    ----------
    name
        Name of the layer in both models; of a shared layer, the first.
    original
        The layer.
    decomposed
        The chain that replaces it.
    """

    name: str
    original: LayerModule
    decomposed: DecomposedLayer

    @property
    def mode(self) -> str:
        """Kernel sizes of the chain: "3×1, 1×3"; of Linear layers their features: "64→16, 16→64"."""
        return kernels_of(self.decomposed.stages)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that the layer was split at."""
        return self.decomposed.ranks


def pairs_of(original: object, decomposed: object) -> list[Pair]:
    """Match the decomposed layers of a model with the layers they replace, in the order of named_modules.

    Parameters
    ----------
    original, decomposed
        A model and its decomposed form.

    Raises
    ------
    ModelError
        One of the two is not a `torch.nn.Module`, or is wrapped, or both are the same object.
    LayerError
        The second has no decomposed layers, or the other layers of the two models differ.
    """
    for what, model in (("original", original), ("decomposed", decomposed)):
        if not isinstance(model, nn.Module):
            raise ModelError(f"{what} must be a torch.nn.Module, found {type(model).__module__}.{type(model).__name__}")
        check_model(model)
    if original is decomposed:
        raise ModelError(f"original and decomposed are one and the same model: {_KEEP_A_COPY}")
    before, after = _layers(cast(nn.Module, original)), _layers(cast(nn.Module, decomposed))
    chains = {name: layer for name, layer in after.items() if isinstance(layer, DecomposedLayer)}
    if not chains:
        swapped = any(isinstance(layer, DecomposedLayer) for layer in before.values())
        advice = "were the two given in the wrong order?" if swapped else "decompose it first"
        raise LayerError(f"no layer of the decomposed model is decomposed: {advice}")
    _check_same(before, after)
    pairs: dict[nn.Module, Pair] = {}
    for name, chain in chains.items():
        layer = before[name]
        if not isinstance(layer, DecomposedLayer):
            pairs.setdefault(chain, Pair(name, cast(LayerModule, layer), chain))
    if not pairs:
        raise LayerError(f"the original is decomposed in the same layers: {_KEEP_A_COPY}")
    return list(pairs.values())


def check_weights(pairs: Sequence[Pair]) -> None:
    """Check that the weights of every chain approximate those of the layer it replaces.

    Parameters
    ----------
    pairs
        The layers and their chains.

    Raises
    ------
    LayerError
        The kernel of a chain is unrelated to that of the original layer.
    """
    for pair in pairs:
        original, composed = (
            weight.detach().cpu().double().flatten() for weight in (pair.original.weight, pair.decomposed.weight)
        )
        strength = float(original.norm() * composed.norm())
        cosine = ratio_of(float(original @ composed), strength)
        if strength and not cosine > min(_LEAST_COSINE, _CHANCE / math.sqrt(original.numel())):
            raise LayerError(
                f"layer {quoted(pair.name)}: the weights of the decomposed layer have nothing to do with the "
                "original's "
                f"(their cosine is {cosine:.2f}): load the weights into the decomposed model, and compare it with its "
                "own original"
            )


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by each of its names, except the layers inside of decomposed layers."""
    inside: tuple[str, ...] = ()
    layers = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not name.startswith(inside) or not inside:
            layers[name] = module
            if isinstance(module, DecomposedLayer):
                inside = (*inside, f"{name}." if name else "")
    return layers


def _check_same(before: Mapping[str, nn.Module], after: Mapping[str, nn.Module]) -> None:
    advice = "compare a decomposed model with its own original"
    only = [("original", before.keys() - after.keys()), ("decomposed model", after.keys() - before.keys())]
    for whose, names in only:
        if names:
            raise LayerError(f"only the {whose} has {listed(sorted(names))}: {advice}")
    for name, layer in after.items():
        found, expected = _geometry(before[name]), _geometry(layer)
        if found != expected:
            raise LayerError(
                f"layer {quoted(name)}: the decomposed model has {_described(expected)} where the original has "
                f"{_described(found)}: {advice}"
            )


def _geometry(layer: nn.Module) -> LayerSpec | None:
    if isinstance(layer, DecomposedLayer):
        return layer.spec
    return geometry_of(layer)


def _described(geometry: LayerSpec | None) -> str:
    return "no such layer" if geometry is None else f"a {geometry.kind} {geometry}"
