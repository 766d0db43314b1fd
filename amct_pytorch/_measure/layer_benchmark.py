"""Time each decomposed layer and its original on inputs of the shapes that reach it in the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..tensor_decompose.model.spec import macs_over_calls, spec_of
from .benchmark_models import PlacedModels
from .benchmark_report import LayerBenchmark
from .benchmark_setting import Setting
from .cpu_share import LEAST_SHARE
from .timing import Comparison


def compare_layers(placed: PlacedModels, setting: Setting, compiled: bool) -> tuple[LayerBenchmark, ...]:
    """Time every layer and the chain that replaces it; identical layers once.

    Parameters
    ----------
    placed
        Both models on the device.
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
    for pair in placed.pairs:
        arrived, alike = placed.arrivals[pair.original], placed.alike(pair)
        if alike in measured:
            setting.steps.done(pair.name)
        elif arrived:
            measured[alike] = setting.compare(*placed.layer_calls(pair, setting, compiled), pair.name)
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
