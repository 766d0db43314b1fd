"""The layers of one weight on a device, and chains that could replace them, as calls to be timed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import cast

import torch
from torch import nn

from ..tensor_decompose.methods.latencies import Ranks
from ..tensor_decompose.methods.weight_group import WeightGroup
from ..tensor_decompose.model.chain import DecomposedLayer
from ..tensor_decompose.model.replace import build_chain, parameters_like
from ..tensor_decompose.model.spec import LayerModule, LayerSpec, spec_of
from ..tensor_decompose.model.split import Split
from .layer_inputs import inputs_like

Arrivals = Mapping[nn.Module, Sequence[torch.Tensor]]
"""By layer its inputs in one forward pass of the model, as tensors on the meta device."""

Call = Callable[..., object]


class WeightOnDevice:
    """The layers of a weight in a copy of the model on a device.

    Parameters
    ----------
    group
        The weight.
    modules
        The copy's modules by name.
    arrivals
        What reaches them.
    device
        The device.
    """

    def __init__(
        self, group: WeightGroup, modules: Mapping[str, nn.Module], arrivals: Arrivals, device: torch.device
    ) -> None:
        self._layers = [(layer, cast(LayerModule, modules[layer.names[0]])) for layer in group.layers]
        self._arrived = [arrivals[module] for _, module in self._layers]
        self._device = device

    def described(self, group: WeightGroup, ranks: Ranks) -> str:
        """Layers, inputs and split in one text: two times of the same text are times of the same thing."""
        return json.dumps(
            [
                [
                    dataclasses.astuple(cast(LayerSpec, layer.spec)),
                    module.weight.stride(),
                    [
                        [*kind, count]
                        for kind, count in Counter((*_layout(blank), str(blank.dtype)) for blank in arrived).items()
                    ],
                    [dataclasses.astuple(stage) for stage in group.split_of(layer, ranks).stages],
                ]
                for (layer, module), arrived in zip(self._layers, self._arrived, strict=True)
            ],
            separators=(",", ":"),
        )

    def calls(
        self, group: WeightGroup, ranks: Ranks, prepared: Callable[[Sequence[nn.Module]], Sequence[Call]]
    ) -> tuple[Call, Call]:
        """All calls of the layers in a forward pass, and those of the chains that replace them.

        Parameters
        ----------
        group
            The weight, with the method that splits it.
        ranks
            Ranks of the split.
        prepared
            Makes of modules what is called: themselves, or compiled.
        """
        modules = [
            *(_bare(module) for _, module in self._layers),
            *(chain_like(module, group.split_of(layer, ranks)) for layer, module in self._layers),
        ]
        functions, count = prepared(modules), len(self._layers)
        return self._on_inputs(functions[:count]), self._on_inputs(functions[count:])

    @cached_property
    def _inputs(self) -> list[list[torch.Tensor]]:
        return [inputs_like(arrived, self._device) for arrived in self._arrived]

    def _on_inputs(self, functions: Sequence[Call]) -> Call:
        pairs = [
            (function, image) for function, images in zip(functions, self._inputs, strict=True) for image in images
        ]

        def call() -> None:
            for function, image in pairs:
                function(image)

        return call


def chain_like(layer: LayerModule, split: Split) -> DecomposedLayer:
    """A chain that could replace a layer: of random weights, which answer at the scale of the layer's own.

    Weights of another scale might let responses over- or underflow, which takes another time on some devices.
    """
    draw = torch.Generator("cpu").manual_seed(0)
    weights = [
        torch.randn(stage.weight_shape, generator=draw, device="cpu") / math.sqrt(math.prod(stage.weight_shape[1:]))
        for stage in split.stages
    ]
    own = layer.weight.detach().float()
    scale = float(own.square().mean().sqrt()) * math.sqrt(own[0].numel())
    return build_chain(layer, split, parameters_like(layer.weight, [*weights[:-1], weights[-1] * scale]))


def _bare(layer: LayerModule) -> LayerModule:
    """The layer without hooks that the user has registered on it."""
    bare = spec_of(layer).build()
    bare.weight, bare.bias = layer.weight, layer.bias
    return bare.train(layer.training)


def _layout(blank: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(blank.shape), blank.stride()
