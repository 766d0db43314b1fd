"""Layers whose weight the modules around them read, or will write or merge later.

In modules that compute with the weight themselves, in adapters, and as branches of a block.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .spec import KINDS, LayerModule
from .weight_readers import WeightReaders

# What libraries call the layer that an adapter changes the response of (PEFT).
_BASE = "base_layer"
# Names of the parameters and layers of a low-rank adapter begin with it (PEFT, loralib, diffusers).
_LOW_RANK = "lora"
# Methods that make one convolution of a block whose branches are summed, named as in RepVGG, MobileOne, YOLO.
_MERGING = (
    *("switch_to_deploy", "convert_to_deploy", "get_equivalent_kernel_bias", "fuse_convs", "merge_branches"),
    *("reparameterize", "reparametrize", "reparameterise", "reparam", "rep_params", "merge_kernel", "fuse_reparam"),
    *("structural_reparam", "fuse_repvgg_block", "repvgg_convert", "merge_dilated_branches"),
)
# What stands behind a convolution in a branch.
_NORMS = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))


def kept_for_their_surroundings(names: Mapping[nn.Module, Sequence[str]]) -> dict[nn.Module, str]:
    """Layers that cannot be taken apart because of the module that they stand in, and the reason in words.

    Parameters
    ----------
    names
        Every module of a model with the names that it is registered under, the model itself first.
    """
    reasons: dict[nn.Module, str] = {}
    readers = WeightReaders()
    for module, known_as in names.items():
        if isinstance(module, torch.jit.ScriptModule):  # what is in it is kept anyway
            continue
        name = repr(known_as[0]) if known_as[0] else "the model"
        method = _merging_method(module)
        if method is not None:
            why = f"it is a branch in {name}: merge its branches first (its method {method}), then decompose"
            reasons.update(dict.fromkeys(_convolutions(module), why))
        for layer, method in readers.read_by(module).items():
            if not isinstance(layer, nn.Conv2d):  # which AMCT decomposes all the same
                reasons[layer] = (
                    f"its weight is read in {name} (by {method}), where that of a split would be composed anew at "
                    "every call: to have it decomposed, run the layer there instead"
                )
        adapted = _adapted(module)
        if adapted:
            why = f"it is part of {name}, an adapter ({type(module).__name__}): merge the adapter first, then decompose"
            reasons.update({layer: why for child in adapted for layer in _layers(child)})
    return reasons


def _adapted(module: nn.Module) -> list[nn.Module]:
    """The children that an adapter consists of: the layer whose response it changes, and its own."""
    children = {key: child for key, child in module._modules.items() if child is not None}
    if _BASE in children:
        base = {id(parameter) for parameter in children[_BASE].parameters()}
        return list(children.values()) if any(id(item) not in base for item in module.parameters()) else []
    if any(key.lower().startswith(_LOW_RANK) for key in (*module._parameters, *children)):
        return [
            child for key, child in children.items() if isinstance(child, KINDS) or key.lower().startswith(_LOW_RANK)
        ]
    # A change of the weight under any other name has its shape.
    shapes = {_shape(parameter) for parameter in module._parameters.values()} - {None}
    return [
        child
        for child in children.values()
        if isinstance(child, KINDS) and _shape(child._parameters.get("weight")) in shapes
    ]


def _merging_method(module: nn.Module) -> str | None:
    """The method that merges the branches of a block, or None where it has none, or has done it."""
    method = next((name for name in _MERGING if _is_called_alone(getattr(type(module), name, None))), None)
    if method is None or getattr(module, "deploy", False) is True:
        return None
    inner = [other for other in module.modules() if other is not module]
    if any(_is_called_alone(getattr(type(other), name, None)) for other in inner for name in _MERGING):
        return None  # a model of such blocks, not a block
    convolutions = _convolutions(module)
    shapes = [_shape(layer._parameters.get("weight")) for layer in convolutions]
    channels = [(len(shape), *shape[:2]) for shape in shapes if shape is not None]
    norms = tuple(norm for kind, norm in _NORMS if any(isinstance(layer, kind) for layer in convolutions))
    # A merged block has neither: one convolution, and those of a gate perhaps, which go there and back.
    to_merge = any(isinstance(other, norms) for other in inner) or len(set(channels)) < len(channels)
    return method if to_merge else None


def _is_called_alone(method: object) -> bool:
    """Whether it is a method without arguments: a `reparameterize(mu, logvar)` is that of a VAE."""
    if not inspect.isfunction(method):
        return False
    needed = [item for item in inspect.signature(method).parameters.values() if item.default is item.empty]
    return sum(item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD) for item in needed) == 1


def _shape(parameter: nn.Parameter | None) -> torch.Size | None:
    lazy = isinstance(parameter, nn.parameter.UninitializedParameter)
    return None if parameter is None or lazy else parameter.shape


def _layers(module: nn.Module) -> list[LayerModule]:
    return [layer for layer in module.modules() if isinstance(layer, KINDS)]


def _convolutions(module: nn.Module) -> list[LayerModule]:
    return [layer for layer in _layers(module) if not isinstance(layer, nn.Linear)]
