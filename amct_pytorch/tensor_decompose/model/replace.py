"""Put decomposed layers into a model: every name, ties, flags, hooks. It happens as a whole or not at all."""

from __future__ import annotations

import contextlib
import copy
import functools
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...errors import quoted, warn_user
from .chain import DecomposedLayer, chain_class
from .layers import slots
from .references import Reference, hidden_references
from .spec import LayerModule
from .split import Split

_HOOKS = (
    *(key for key in vars(nn.Module()) if key.endswith("_hooks")),
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)


@dataclass(frozen=True)
class Replacement:
    """A layer and what comes in its place.

    Attributes
    ----------
    names
        The names under which the layer is replaced.
    layer
        The layer.
    chain
        What replaces it.
    """

    names: tuple[str, ...]
    layer: LayerModule
    chain: DecomposedLayer


def build_chain(
    layer: LayerModule, split: Split, weights: Sequence[nn.Parameter], bias: nn.Parameter | None = None
) -> DecomposedLayer:
    """The chain that stands in for a layer, in its training mode.

    Parameters
    ----------
    layer
        The layer, whose own bias the chain gets unless another is given.
    split
        How it is split.
    weights
        One for each stage.
    bias
        For the last stage; None for the layer's own.
    """
    own_bias = layer._parameters.get("bias")
    chain = chain_class(split.layer.axes)(*(stage.build() for stage in split.stages))
    for stage, weight in zip(chain, weights, strict=True):
        stage.weight = weight
    chain[-1].register_parameter("bias", own_bias if bias is None else bias)
    chain._decomposition = split
    return chain.train(layer.training)


def bias_for(layer: LayerModule, values: torch.Tensor) -> nn.Parameter:
    """A bias (out,) for the chain that replaces a layer, like the bias of that, or of the kind of its weight."""
    if layer.bias is not None:
        return parameters_like(layer.bias, [values])[0]
    weight = layer.weight
    with torch.inference_mode(False), torch.no_grad():
        return nn.Parameter(values.to(weight.dtype, copy=True).to(weight.device), weight.requires_grad)


def parameters_like(original: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[nn.Parameter]:
    """Parameters of these values with the dtype, device, memory format, flags and marks of a layer's own one."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(original.dim())
    is_channels_last = channels_last is not None and original.is_contiguous(memory_format=channels_last)
    memory_format = channels_last if is_channels_last and not original.is_contiguous() else torch.contiguous_format
    parameters = []
    # An inference tensor could never be trained, so none is made even inside torch.inference_mode.
    with torch.inference_mode(False), torch.no_grad():
        for tensor in tensors:
            # The memory format is laid out on the host: not every device can do it.
            values = tensor.to(original.dtype, memory_format=memory_format, copy=True).to(original.device)
            parameter = nn.Parameter(values, requires_grad=original.requires_grad)
            if type(original) is nn.Parameter:  # a subclass may keep its very values in its attributes
                vars(parameter).update(vars(original))
            parameters.append(parameter)
    return parameters


@contextlib.contextmanager
def replaced(model: nn.Module, replacements: Sequence[Replacement]) -> Iterator[tuple[nn.Module, dict[str, list[str]]]]:
    """The model with its layers replaced, put back as it was if the body of the with statement fails.

    Yields the model and the changes: for every replaced name, in the order of named_modules, the names of
    the layers in its place. A model that is itself the layer stays as it is, and its chain is yielded.

    Plain attributes, lists and dicts that also hold a layer get its chain too. A warning names each of them, and each
    place that cannot be set.
    """
    if replacements and replacements[0].layer is model:
        chain = replacements[0].chain
        _copy_over(model, chain)
        yield chain, {"": list(chain._modules)}
        return
    places = slots(model)
    standing: dict[nn.Module, set[str]] = defaultdict(set)
    for name, slot in places.items():
        standing[slot.module].add(name)
    chain_of = {name: item.chain for item in replacements for name in item.names}
    changes = {name: [f"{name}.{key}" for key in chain_of[name]._modules] for name in places if name in chain_of}
    references = _references(model, replacements)
    undo: list[Callable[[], None]] = []
    try:
        # First, so that a chain takes over attributes that are right already.
        for reference, chain in references:
            undo.append(functools.partial(reference.point_to, reference.layer))
            reference.point_to(chain)
        for item in replacements:
            undo.append(functools.partial(_rebind_load_hooks, item.layer))
            stays_in_use = standing[item.layer] != set(item.names)
            item.chain._name = item.names[0]
            (_copy_over if stays_in_use else _take_over)(item.layer, item.chain)
            for name in item.names:
                undo.append(functools.partial(places[name].put, item.layer))
                places[name].put(item.chain)
        yield model, changes
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def _references(model: nn.Module, replacements: Sequence[Replacement]) -> list[tuple[Reference, DecomposedLayer]]:
    """The places outside the module tree that are to hold a chain instead; warns of each, and of those that cannot."""
    item_of: dict[nn.Module, Replacement] = {item.layer: item for item in replacements}
    settable = []
    for reference in hidden_references(model, list(item_of)):
        item = item_of[reference.layer]
        if reference.holder is None:
            what = (
                "goes on holding it as it was: let it refer to the new layer, or what runs through it is not decomposed"
            )
        else:
            settable.append((reference, item.chain))
            what = "now holds the decomposed one"
        warn_user(f"{reference.place} holds the layer {quoted(item.names[0])} outside of the module tree, and {what}")
    return settable


def _copy_over(layer: nn.Module, chain: DecomposedLayer) -> None:
    """Give the chain copies of the hooks, the bias and the user's attributes of a layer that stays in use itself."""
    _take_over(layer, chain)
    for key in _HOOKS:
        hooks = vars(chain)[key]
        vars(chain)[key] = type(hooks)((number, _own(hook)) for number, hook in hooks.items())
    _rebind_load_hooks(chain)
    _rebind_load_hooks(layer)
    bias = layer._parameters.get("bias")
    if bias is not None and chain[-1].bias is bias:
        with torch.inference_mode(False):
            copied = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        vars(copied).update(vars(bias))
        chain[-1].register_parameter("bias", copied)


def _own(hook: Any) -> Any:
    """A hook that can be bound to another module: torch wraps those that are called with their module."""
    return copy.copy(hook) if hasattr(hook, "with_module") else hook


def _take_over(layer: nn.Module, chain: DecomposedLayer) -> None:
    """Give the chain the layer's hooks (the same dicts, so that handles go on working) and the user's attributes."""
    for key in (*_HOOKS, "_is_full_backward_hook"):
        vars(chain)[key] = vars(layer)[key]
    standard = vars(chain.spec.build())
    for key, value in vars(layer).items():
        if key not in standard:
            vars(chain)[key] = value
    _rebind_load_hooks(chain)


def _rebind_load_hooks(module: nn.Module) -> None:
    """Hooks before load_state_dict are called with the module they were registered on, held weakly."""
    hooks: dict[int, Any] = vars(module)["_load_state_dict_pre_hooks"]
    for hook in hooks.values():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(module)
