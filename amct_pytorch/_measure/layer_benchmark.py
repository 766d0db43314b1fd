"""Time each decomposed layer and its original on inputs of the shapes that reach it in the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from ..tensor_decompose.model.spec import macs_over_calls, spec_of
from .benchmark_report import LayerBenchmark
from .benchmark_setting import Setting
from .cpu_share import LEAST_SHARE
from .pairing import Pair
from .timing import Comparison


def compare_layers(
    pairs: Sequence[Pair], arrivals: dict[nn.Module, list[torch.Tensor]], setting: Setting, compiled: bool
) -> tuple[LayerBenchmark, ...]:
    """Time every layer and the chain that replaces it; identical layers once.

    Parameters
    ----------
    pairs
        The layers and their chains, on the device.
    arrivals
        For each original layer its inputs in one forward pass of the model, as tensors on the meta device.
    setting
        Where and how to measure.
    compiled
        Whether to compile both sides.

    Returns
    -------
    tuple of LayerBenchmark
        One for each pair.
    """
    measured: dict[object, Comparison] = {}
    layers = []
    for pair in pairs:
        arrived = arrivals[pair.original]
        kinds = Counter((tuple(blank.shape), blank.stride(), blank.dtype) for blank in arrived)
        alike = (spec_of(pair.original), pair.decomposed.stages, tuple(kinds.items()))
        if alike in measured:
            setting.steps.done(pair.name)
        elif arrived:
            measured[alike] = _compare_layer(pair, arrived, setting, compiled)
        spec, stages = spec_of(pair.original), pair.decomposed.stages
        shapes = [blank.shape for blank in arrived]
        layers.append(
            LayerBenchmark(
                name=pair.name,
                conv=str(spec),
                kind=spec.kind,
                mode=pair.mode,
                ranks=pair.ranks,
                calls=len(arrived),
                parameters=spec.parameters,
                parameters_after=sum(stage.parameters for stage in stages),
                macs=macs_over_calls([spec], shapes),
                macs_after=macs_over_calls(stages, shapes),
                comparison=measured.get(alike),
            )
        )
    return tuple(layers)


def doubt_impossible(layers: Sequence[LayerBenchmark], model: Comparison) -> tuple[LayerBenchmark, ...]:
    """Withhold the verdict on layers that seem to take longer than the whole model that they are part of.

    Something has disturbed these times, whatever the counters of the system say. They may be longer by as much as the
    smallest share of the CPU explains that gives a verdict.

    Parameters
    ----------
    layers
        The layers as measured.
    model
        The times of the two whole models.
    """
    wholes = (model.before.median, model.after.median)
    checked = []
    for layer in layers:
        found = layer.comparison
        if found is not None and any(
            part.median * LEAST_SHARE > whole for part, whole in zip((found.before, found.after), wholes, strict=True)
        ):
            found = found.doubted("the layer alone seems to take longer than the whole model")
        checked.append(replace(layer, comparison=found))
    return tuple(checked)


def inputs_like(arrived: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Random values on a device, of the shapes, strides and types of these tensors on the meta device.

    Parameters
    ----------
    arrived
        One for each call of a layer; calls with inputs alike get the same values.
    device
        The device.
    """
    draw = torch.Generator("cpu").manual_seed(0)
    made: dict[object, torch.Tensor] = {}
    images = []
    for blank in arrived:
        kind = (blank.shape, blank.stride(), blank.dtype)
        if kind not in made:
            # Drawn and laid out on the host, as not every device supports both.
            values = torch.empty_strided(blank.shape, blank.stride(), dtype=torch.float32, device="cpu")
            made[kind] = values.normal_(generator=draw).to(device, blank.dtype)
        images.append(made[kind])
    return images


def blank_like(arrived: torch.Tensor) -> torch.Tensor:
    """A tensor on the meta device of the shape, strides and type of another one."""
    return torch.empty_strided(arrived.shape, arrived.stride(), dtype=arrived.dtype, device="meta")


def _compare_layer(pair: Pair, arrived: Sequence[torch.Tensor], setting: Setting, compiled: bool) -> Comparison:
    """Time all calls of one layer in a forward pass together, on random values of the shapes that reach it."""
    images = inputs_like(arrived, setting.device)
    layers: tuple[Callable[..., object], Callable[..., object]] = (pair.original, pair.decomposed)
    if compiled:
        layers = setting.compiled_pair(pair.original, pair.decomposed)
    return setting.compare(_calls_of(layers[0], images), _calls_of(layers[1], images), pair.name)


def _calls_of(layer: Callable[..., object], images: Sequence[torch.Tensor]) -> Callable[[], object]:
    def call() -> None:
        for image in images:
            layer(image)

    return call
