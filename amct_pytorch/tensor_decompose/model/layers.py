"""The layers of a model: the names each is registered under, and whether it can be taken apart."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import cast

import torch
from torch import fx, nn

from ...errors import ModelError, quoted
from .chain import DecomposedLayer
from .eligibility import axes_of, geometry_of, is_plain, is_transposed, why_not_replaceable
from .references import hidden_weights
from .spec import KINDS, LayerModule, LayerSpec, kinds_named
from .surroundings import kept_for_their_surroundings

_WRAPPERS = {
    "DataParallel": "decompose model.module before wrapping it",
    "DistributedDataParallel": "decompose model.module before wrapping it",
    "FullyShardedDataParallel": "decompose the model before sharding it",
    "FSDPModule": "decompose the model before sharding it",
    "OptimizedModule": "decompose the model (model._orig_mod of this one) before compiling it",
}

# What torch computes a layer with, by number of spatial axes.
_FUNCTIONS = ("linear", "conv1d", "conv2d", "conv3d")


@dataclass(frozen=True)
class Slot:
    """A place in the model where a module stands: ``parent._modules[key]``."""

    parent: nn.Module
    key: str

    @property
    def module(self) -> nn.Module:
        """What stands here."""
        return cast(nn.Module, self.parent._modules[self.key])

    def put(self, module: nn.Module) -> None:
        """Let another module stand here."""
        self.parent._modules[self.key] = module


@dataclass(frozen=True)
class Layer:
    """A Linear layer or a convolution of a model, or what a user would call so.

    Attributes
    ----------
    names
        Every name it is reachable under, in the order of `torch.nn.Module.named_modules`.
    module
        The layer.
    axes
        Number of its spatial axes; None for a transposed convolution.
    spec
        Its geometry, or None where it has none that can be read (lazy, quantised, scripted).
    why_not
        Why it cannot be taken apart whatever its geometry, or None where it can.
    """

    names: tuple[str, ...]
    module: nn.Module
    axes: int | None
    spec: LayerSpec | None
    why_not: str | None


def check_model(model: object) -> None:
    """Check that a model can be decomposed as a whole.

    Raises
    ------
    ModelError
        It is no module, or it is, or holds, a wrapper that keeps hold of the layers inside.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"model must be a torch.nn.Module, found {type(model).__module__}.{type(model).__qualname__}")
    try:
        modules = dict(model.named_modules(remove_duplicate=False))
    except RecursionError:
        raise ModelError("the model contains itself: a module is registered inside one of its own children") from None
    for name, module in modules.items():
        where = f"its submodule {quoted(name)}" if name else "the model"
        if module._compiled_call_impl is not None:
            raise ModelError(f"{where} was compiled in place: decompose the model before compiling it")
        for kind in type(module).__mro__:
            # An inner DataParallel replicates its module at every forward; the others keep what they saw first.
            inner_is_fine = kind.__name__ == "DataParallel" and name
            if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch.") and not inner_is_fine:
                raise ModelError(f"{where} is wrapped in {kind.__name__}: {_WRAPPERS[kind.__name__]}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("the model is a ScriptModule: decompose the Python model, then script or trace it")


def slots(model: nn.Module) -> dict[str, Slot]:
    """The place behind every name of the model but the root's, in the order of named_modules."""
    return dict(_walk(model, ""))


def chains_of(model: nn.Module) -> dict[str, DecomposedLayer]:
    """The layers of the model that are decomposed already, by every name."""
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, DecomposedLayer)
    }


@dataclass(frozen=True)
class Survey:
    """What a model consists of, as far as decomposing it is concerned.

    Attributes
    ----------
    model
        The model.
    layers
        Every layer once, in the order of its first name.
    chains
        The layers that are decomposed already, by every name.
    """

    model: nn.Module
    layers: tuple[Layer, ...]
    chains: Mapping[str, DecomposedLayer]

    def without_layers(self, axes: Collection[int]) -> str:
        """A sentence on the model, where it has no layers with these numbers of spatial axes.

        It says what to do where the model computes all the same what such layers do.
        """
        text = f"The model has no {kinds_named(axes)}"
        called = "layers" if 0 in axes else "convolutions"
        for module in self.model.modules():
            if _calls_as_function(module, axes):
                if isinstance(getattr(module, "graph", None), fx.Graph):
                    return f"{text}; its {called} are called as functions: decompose before exporting or tracing."
                kinds = ", ".join(f"torch.nn.{KINDS[number].__name__}" for number in sorted(axes))
                return (
                    f"{text}; {called} are called as functions in {type(module).__qualname__}: "
                    f"make them layers ({kinds}) to have them decomposed."
                )
        return f"{text}."


def survey(model: nn.Module) -> Survey:
    """Check a model, and find its layers. It is only read.

    Raises
    ------
    ModelError
        See `check_model`.
    """
    check_model(model)
    return Survey(model, _without_hidden_weights(model, _layers_of(model)), chains_of(model))


def _layers_of(model: nn.Module) -> list[Layer]:
    names: dict[nn.Module, list[str]] = defaultdict(list)
    chain_of: dict[nn.Module, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
        if isinstance(module, DecomposedLayer):
            chain_of.update(dict.fromkeys(module.children(), name))
    holders = _holders_of_weights(names)
    in_use = kept_for_their_surroundings(names)
    layers = []
    for module, known_as in names.items():
        axes = axes_of(module)
        if axes is None and not is_transposed(module):
            continue
        if module in chain_of:
            why_not: str | None = f"it is part of {quoted(chain_of[module])}, which is decomposed already"
        else:
            why_not = why_not_replaceable(module) or in_use.get(module) or _why_tied(module, holders)
        layers.append(Layer(tuple(known_as), module, axes, geometry_of(module), why_not))
    return layers


def _without_hidden_weights(model: nn.Module, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers, with a reason to keep those whose weights the model also keeps outside of its module tree."""
    splittable = [cast(LayerModule, layer.module) for layer in layers if layer.why_not is None]
    places = hidden_weights(model, splittable)
    return tuple(
        dataclasses.replace(
            layer,
            why_not=f"its weight is also kept in {places[layer.module]}, outside of the module tree, which a split "
            "would leave behind: keep the layer there instead, and read its weight where it is needed",
        )
        if layer.module in places
        else layer
        for layer in layers
    )


def _calls_as_function(module: nn.Module, axes: Collection[int]) -> bool:
    """Whether a method of a module, or its graph, calls torch's function for one of these layers."""
    functions = (*(_FUNCTIONS[number] for number in axes), *(["convolution"] if any(axes) else []))
    graph = getattr(module, "graph", None)
    if isinstance(graph, fx.Graph):
        called = {str(node.target) for node in graph.nodes if node.op == "call_function"}
        return any(function in name for function in functions for name in called)
    methods = [item for kind in type(module).__mro__ for item in vars(kind).values()]
    names = {name for item in methods if isinstance(item, FunctionType) for name in item.__code__.co_names}
    return not names.isdisjoint(functions)


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, Slot]]:
    for key, child in module._modules.items():
        if child is not None:
            yield prefix + key, Slot(module, key)
            yield from _walk(child, f"{prefix}{key}.")


def _holders_of_weights(names: dict[nn.Module, list[str]]) -> dict[nn.Parameter, list[str]]:
    """For every Parameter the names under which modules hold it, other than as a layer's weight."""
    holders: dict[nn.Parameter, list[str]] = defaultdict(list)
    for module, known_as in names.items():
        for key, parameter in module._parameters.items():
            if parameter is not None and not (key == "weight" and is_plain(module)):
                holders[parameter].append(f"{known_as[0]}.{key}".lstrip("."))
    return holders


def _why_tied(module: nn.Module, holders: dict[nn.Parameter, list[str]]) -> str | None:
    weight = module._parameters["weight"]
    if weight is not None and weight in holders:
        return f"its weight is also {quoted(holders[weight][0])}, which a split would untie"
    return None
