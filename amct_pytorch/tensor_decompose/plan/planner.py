"""From a model to a plan. The model is only read; nothing is drawn from a random generator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from ..._run.intercept import input_shapes
from ..._run.process_group import ProcessGroup
from ..._run.progress import ProgressFunction
from ..._run.tensors import is_finite
from ...errors import ConfigError, LayerError, listed, quoted
from ..calibration.data import Calibration
from ..calibration.evaluation import Candidates, Outcome, judge
from ..calibration.layer_fit import Fitted
from ..calibration.passes import fit_to_data
from ..calibration.runs import Runs
from ..calibration.trial_chains import chains_for
from ..config import DecompositionConfig
from ..methods.budget_choice import BudgetChoice
from ..methods.eligible import why_kept
from ..methods.factoring import NEVER_RAN, Factoring
from ..methods.latencies import Stopwatch
from ..methods.weight_group import Factors, WeightGroup
from ..methods.within_budget import ModelCost
from ..model.eligibility import host_weight
from ..model.layers import Layer, Survey
from ..model.spec import KINDS, LayerModule, LayerSpec, macs_over_calls
from ..ranks.budget import Budget
from ..ranks.choose import Choice
from .fingerprint import fingerprint
from .layer_plan import LayerPlan
from .listed import axes_in_use, is_listed
from .plan import DecompositionPlan
from .settings import settings_of

Shapes = Sequence[Sequence[int]]
"""Shapes of the inputs of a layer, one for each call."""


def make_plan(
    found: Survey,
    config: DecompositionConfig,
    budget: Budget | None,
    calibration: Calibration | None,
    example_inputs: object,
    report: ProgressFunction,
    processes: ProcessGroup,
    stopwatch: Stopwatch | None = None,
) -> DecompositionPlan:
    """The plan for a model.

    Parameters
    ----------
    found
        What the model is.
    config
        Method, ranks, layers.
    budget
        Of the whole model, instead of the ranks; or None.
    calibration
        Inputs to fit the factors to, or None.
    example_inputs
        Inputs to count MACs on, or None.
    report
        Called with (done, total, layer name) as weights are factored.
    processes
        Those that make the same plan, each a share of it.
    stopwatch
        Times the model and its layers, for a budget of latency.

    Raises
    ------
    LayerError
        Layers to decompose have no weights, or weights that are not finite.
    InputsError
        The model fails on the example inputs or a calibration batch, or there are no batches.
    ConfigError
        A rank is not possible for its layer, or the budget cannot be reached.
    DeviceError
        The device cannot run the model, or is too busy to choose by the times measured.
    """
    verdicts = _agree_on_shared([(layer, _verdict(layer, config)) for layer in found.layers])
    verdicts = [(layer, verdict) for layer, verdict in verdicts if is_listed(layer, config)]
    _check_weights(_groups_of(verdicts, {}))
    listed = [layer for layer, _ in verdicts]
    shapes = _shapes(found.model, listed, example_inputs)
    # Those of all processes: they must come to the same verdicts.
    calls = _pooled(processes.gather(shapes))
    verdicts = _agree_on_shared(_without_idle(verdicts, calls))
    groups = _groups_of(verdicts, calls)
    _check_same_everywhere(groups, processes)
    plans = {layer.names: _kept(layer, verdict) for layer, verdict in verdicts if isinstance(verdict, str)}
    parameters = sum(parameter.numel() for parameter in found.model.parameters() if not _is_lazy(parameter))
    if stopwatch is not None and not groups:
        raise _nothing_to_time(budget, verdicts)
    before = ModelCost(_macs(listed, calls), parameters)
    within = None if budget is None else BudgetChoice(budget, before, processes, stopwatch)
    factoring = Factoring(groups, report, processes, within)
    outcome = None
    if calibration is None or not groups:
        factoring.look_at_weights(report)
        factoring.choose_by_weights(range(len(groups)))
        for index, choice in factoring.choices.items():
            plans |= _plans_of(factoring.groups[index], choice, factoring.plain.get(index))
    else:
        fitted, errors, outcome = _fit_all(found.model, factoring, calibration, report, processes)
        for index, choice in factoring.choices.items():
            group = factoring.groups[index]
            if index in fitted and not fitted[index].fit.samples:
                plans |= {layer.names: _kept(layer, NEVER_RAN) for layer in group.layers}
            else:
                plans |= _calibrated_plans_of(group, choice, fitted.get(index), errors.get(index))
    for index, reason in factoring.kept.items():
        plans |= {layer.names: _kept(layer, reason) for layer in factoring.groups[index].layers}
    layers = tuple(_with_macs(plans[layer.names], shapes.get(layer.names)) for layer in listed)
    saved = sum(_saved(group, [plans[layer.names] for layer in group.layers]) for group in factoring.groups)
    together = processes.size > 1
    why_empty = "" if layers else found.without_layers(axes_in_use(config))
    made = settings_of(found.model, config, budget, calibration, example_inputs)
    return DecompositionPlan(
        layers, parameters, parameters - saved, outcome, together, factoring.summary, factoring.proof, why_empty, made
    )


def _verdict(layer: Layer, config: DecompositionConfig) -> DecompositionConfig | str:
    """The settings that a layer is to be decomposed with, or the reason in words why it is kept."""
    if layer.why_not is not None:
        return layer.why_not
    settings = config.for_layer(layer.names)
    if isinstance(settings, str):
        return settings
    return why_kept([cast(LayerSpec, layer.spec)], settings) or settings


Verdicts = list[tuple[Layer, DecompositionConfig | str]]


def _agree_on_shared(verdicts: Verdicts) -> Verdicts:
    """Layers that share one weight are all decomposed alike, or all kept."""
    sharing: dict[int, Verdicts] = defaultdict(list)
    for layer, verdict in verdicts:
        if isinstance(layer.module, KINDS):
            sharing[id(layer.module._parameters.get("weight"))].append((layer, verdict))

    def agreed(layer: Layer, verdict: DecompositionConfig | str) -> DecompositionConfig | str:
        if isinstance(verdict, str):
            return verdict
        together = sharing[id(layer.module._parameters["weight"])]
        for other, its_verdict in together:
            if its_verdict != verdict:
                why = f"which is kept ({its_verdict})" if isinstance(its_verdict, str) else "which has other settings"
                return f"its weight is also that of {quoted(other.names[0])}, {why}"
        return why_kept([cast(LayerSpec, other.spec) for other, _ in together], verdict) or verdict

    return [(layer, agreed(layer, verdict)) for layer, verdict in verdicts]


def _nothing_to_time(budget: Budget | None, verdicts: Verdicts) -> ConfigError:
    """The error that no layer can be split to save time, with reasons of the first few."""
    reasons = [f"; {quoted(layer.names[0])}: {verdict}" for layer, verdict in verdicts[:3]]
    return ConfigError(
        f"budget: {budget} cannot be reached: none of {len(verdicts)} layers may be decomposed{''.join(reasons)}: let "
        'some be (method="auto", rule="any", no rules that keep layers)'
    )


def _pooled(shapes: Sequence[Mapping[tuple[str, ...], Shapes]]) -> dict[tuple[str, ...], Shapes]:
    """The calls of each layer in all processes together."""
    names = dict.fromkeys(name for own in shapes for name in own)
    return {name: [call for own in shapes for call in own.get(name, ())] for name in names}


def _macs(layers: Sequence[Layer], calls: Mapping[tuple[str, ...], Shapes]) -> int | None:
    """Multiply-accumulates of layers over all calls; None where no calls are known."""
    if not calls:
        return None
    return sum(macs_over_calls((layer.spec,), calls[layer.names]) for layer in layers if layer.spec is not None)


def _without_idle(verdicts: Verdicts, calls: Mapping[tuple[str, ...], Shapes]) -> Verdicts:
    """The verdicts, with the reason to keep each layer that never ran although it was watched.

    Its weight may well be read, by code that convolves by itself and would have the kernel composed anew each time.
    """
    idle = "it never ran on the example inputs"
    return [
        (layer, idle if not isinstance(verdict, str) and calls.get(layer.names) == [] else verdict)
        for layer, verdict in verdicts
    ]


def _groups_of(verdicts: Verdicts, calls: Mapping[tuple[str, ...], Shapes]) -> list[WeightGroup]:
    groups: dict[int, WeightGroup] = {}
    for layer, verdict in verdicts:
        if isinstance(verdict, DecompositionConfig):
            weight = id(layer.module._parameters["weight"])
            group = groups.get(weight, WeightGroup((), verdict))
            of_all = (*group.calls, tuple(calls.get(layer.names, ())))
            groups[weight] = replace(group, layers=(*group.layers, layer), calls=of_all)
    return list(groups.values())


def _check_weights(groups: Sequence[WeightGroup]) -> None:
    absent = [group.name for group in groups if group.modules[0].weight.is_meta]
    if absent:
        raise LayerError(
            f"there are no weights to decompose: {_all(absent)} on the meta device; load the weights first "
            "(to rebuild a decomposed model and load its weights afterwards, use decompose_network)"
        )
    broken = [group.name for group in groups if not is_finite(host_weight(group.modules[0]))]
    if broken:
        raise LayerError(
            f"expected finite weights, found NaN or infinity in {_all(broken)}: fix the weights, "
            "or leave the layers out with DecompositionConfig(layers={name: False})"
        )


def _check_same_everywhere(groups: Sequence[WeightGroup], processes: ProcessGroup) -> None:
    """Check that every process has the same weights to factor, by the same settings.

    Raises
    ------
    LayerError
        One has not; it is raised in all.
    """
    if processes.size == 1:
        return
    own = {group.name: (repr(group.settings), fingerprint(group.modules[0], with_bias=True)) for group in groups}
    for number, other in enumerate(processes.gather(own)):
        for name in [*own, *other]:
            if own.get(name) != other.get(name):
                raise LayerError(
                    f"layer {quoted(name)} is not to be decomposed alike in process {number} and process "
                    f"{processes.index} "
                    "of the group: give every process the same model with the same weights and the same config, or "
                    "let each decompose by itself with distributed=False"
                )


def _shapes(model: nn.Module, layers: Sequence[Layer], example_inputs: object) -> dict[tuple[str, ...], Shapes]:
    """The shapes of the inputs that reach each layer in a run on the example inputs; none without them."""
    if example_inputs is None:
        return {}
    layers = [layer for layer in layers if layer.spec is not None]
    shapes = input_shapes(model, [layer.module for layer in layers], example_inputs)
    return {layer.names: seen for layer, seen in zip(layers, shapes, strict=True)}


def _fit_all(
    model: nn.Module, factoring: Factoring, calibration: Calibration, report: ProgressFunction, processes: ProcessGroup
) -> tuple[dict[int, Fitted], dict[int, tuple[float, float] | None], Outcome]:
    """By number of the group the fitted factors and the errors of the responses, and what comes of them all."""
    runs = Runs(model, calibration)
    with torch.inference_mode(False), torch.no_grad():
        factoring.look_at_weights()
        fitted = fit_to_data(runs, factoring, report, processes)
        replaced = [
            Candidates(
                group.spec,
                chains_for(group, fitted[index].factors, fitted[index].biases),
                chains_for(group, fitted[index].plain),
            )
            for index, group in enumerate(factoring.groups)
            if index in fitted
        ]
        outcome, errors = judge(runs, replaced, processes)
    return fitted, dict(zip(sorted(fitted), errors, strict=True)), outcome


def _kept(layer: Layer, reason: str) -> LayerPlan:
    parameters = None if layer.spec is None else layer.spec.parameters
    return LayerPlan(layer.names, layer.spec, False, reason, parameters=parameters, parameters_after=parameters)


def _plans_of(group: WeightGroup, choice: Choice, factors: Factors | None) -> dict[tuple[str, ...], LayerPlan]:
    """The plans for the layers of a group; with None for factors they are kept, as they gain nothing."""
    return {layer.names: _planned(layer, group, choice, factors) for layer in group.layers}


def _calibrated_plans_of(
    group: WeightGroup, choice: Choice, fitted: Fitted | None, errors: tuple[float, float] | None
) -> dict[tuple[str, ...], LayerPlan]:
    if fitted is None:
        return _plans_of(group, choice, None)
    response_error, plain_response_error = errors or (None, None)
    return {
        layer.names: replace(
            _planned(layer, group, choice, fitted.factors, bias),
            fit=fitted.fit,
            response_error=response_error,
            plain_response_error=plain_response_error,
        )
        for layer, bias in zip(group.layers, fitted.biases, strict=True)
    }


def _planned(
    layer: Layer, group: WeightGroup, choice: Choice, factors: Factors | None, bias: Tensor | None = None
) -> LayerPlan:
    spec, module = cast(LayerSpec, layer.spec), cast(LayerModule, layer.module)
    plan = LayerPlan(
        names=layer.names,
        spec=spec,
        decompose=factors is not None,
        reason=choice.reason,
        method=group.method.name,
        mode=group.method.mode(spec),
        ranks=choice.ranks,
        parameters=spec.parameters,
        fingerprint=fingerprint(module, bias is not None),
    )
    if factors is None:
        return replace(plan, reason=group.shortfall(choice.ranks) or choice.reason, parameters_after=spec.parameters)
    plan = replace(plan, error=factors.error, factors=factors.weights, bias=bias)
    return replace(plan, parameters_after=sum(stage.parameters for stage in plan.split.stages))


def _saved(group: WeightGroup, plans: Sequence[LayerPlan]) -> int:
    """Parameters that the split saves: of the weight once, less a bias for each layer that gets one."""
    first = plans[0]
    if not first.decompose or first.ranks is None:
        return 0
    added = sum(plan.added_bias for plan in plans) * group.spec.out_channels
    return group.spec.parameters - group.parameters_at(first.ranks) - added


def _with_macs(plan: LayerPlan, shapes: Shapes | None) -> LayerPlan:
    if shapes is None or plan.spec is None:
        return plan
    before = macs_over_calls((plan.spec,), shapes)
    after = macs_over_calls(plan.split.stages, shapes) if plan.decompose else before
    return replace(plan, macs=before, macs_after=after)


def _is_lazy(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, nn.parameter.UninitializedParameter)


def _all(names: Sequence[str]) -> str:
    return listed(names)
