"""From a model to a plan. The model is only read; nothing is drawn from a random generator."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import nn

from ..._run.intercept import Calls, input_sizes
from ..._run.process_group import ProcessGroup as Team
from ..._run.progress import Report
from ..._run.tensors import is_finite
from ..._run.workers import run_all
from ...errors import LayerError
from ..calibration.data import Calibration, Runs
from ..calibration.evaluation import Outcome, Replaced, judge
from ..calibration.layer_fit import rows_for
from ..calibration.passes import fit_to_data
from ..config import DecompositionConfig
from ..methods import Factors, get_method
from ..methods.linalg import exact_matmul
from ..methods.weight_group import Job
from ..model.layers import Found
from ..model.spec import ConvSpec, host_weight
from .plan import DecompositionPlan, LayerPlan, fingerprint

# Side of the Gram matrix from which a layer is computed with nothing beside it: it works in over 0.2 GB.
_ALONE_FROM = 4096

# Decompositions switch settings of the whole process, so those in several threads take turns. Reentrant, as a
# progress function may ask for a plan itself.
_one_at_a_time = threading.RLock()


def _renew_lock() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.RLock()


if hasattr(os, "register_at_fork"):
    # A child process has no thread that would ever release a lock held at the fork.
    os.register_at_fork(after_in_child=_renew_lock)


def make_plan(
    model: nn.Module,
    layers: Sequence[Found],
    config: DecompositionConfig,
    calibration: Calibration | None,
    example_inputs: object,
    report: Report,
    team: Team,
) -> DecompositionPlan:
    """The plan for a model.

    Parameters
    ----------
    layers
        What `survey` found in it.
    calibration
        Inputs to fit the factors to, or None.
    example_inputs
        Inputs to count MACs on, or None.
    report
        Told (done, total, layer name) as weights are factored.
    team
        The ranks that make the same plan, each a share of it.

    Raises
    ------
    LayerError
        Layers to decompose have no weights, or weights that are not finite.
    InputsError
        The model fails on the example inputs or a calibration batch, or there are no batches.
    ConfigError
        A rank is not possible for its layer.
    """
    verdicts = _agree_on_shared([(layer, _verdict(layer, config)) for layer in layers])
    jobs = _jobs(verdicts)
    _check_weights(jobs)
    _check_same_on_all_ranks(jobs, team)
    with_geometry = [layer for layer in layers if layer.conv is not None]
    calls: dict[tuple[str, ...], Calls] = {}
    if example_inputs is not None:
        sizes = input_sizes(model, [layer.module for layer in with_geometry], example_inputs)
        calls = {layer.names: size for layer, size in zip(with_geometry, sizes, strict=True)}
    rows = {layer.names: _kept(layer, verdict) for layer, verdict in verdicts if isinstance(verdict, str)}
    outcome = None
    if calibration is None or not jobs:
        for job, factors in zip(jobs, _factorise_all(jobs, report, team), strict=True):
            rows.update((layer.names, _planned(layer, job, factors)) for layer in job.layers)
    else:
        calibrated, outcome = _fit_all(model, jobs, calibration, report, team)
        rows.update((layer.names, plan) for layer, plan in calibrated)
    plans = tuple(_with_macs(rows[layer.names], calls.get(layer.names)) for layer in layers)
    parameters = sum(parameter.numel() for parameter in model.parameters() if not _is_lazy(parameter))
    saved = sum(_saved(job, [rows[layer.names] for layer in job.layers]) for job in jobs)
    return DecompositionPlan(plans, parameters, parameters - saved, outcome, together=team.size > 1)


def _verdict(layer: Found, config: DecompositionConfig) -> DecompositionConfig | str:
    """The settings that a layer is to be decomposed with, or the reason in words why it is kept."""
    if layer.why_not is not None:
        return layer.why_not
    settings = config.for_layer(layer.names)
    if isinstance(settings, str):
        return settings
    return get_method(settings.method).why_not(cast(ConvSpec, layer.conv)) or settings


Verdicts = list[tuple[Found, DecompositionConfig | str]]


def _agree_on_shared(verdicts: Verdicts) -> Verdicts:
    """Layers that share one weight are all decomposed alike, or all kept."""
    sharing: dict[int, Verdicts] = defaultdict(list)
    for layer, verdict in verdicts:
        if type(layer.module) is nn.Conv2d:
            sharing[id(layer.module._parameters.get("weight"))].append((layer, verdict))

    def agreed(layer: Found, verdict: DecompositionConfig | str) -> DecompositionConfig | str:
        if isinstance(verdict, str):
            return verdict
        for other, its_verdict in sharing[id(layer.module._parameters["weight"])]:
            if its_verdict != verdict:
                why = f"which is kept ({its_verdict})" if isinstance(its_verdict, str) else "which has other settings"
                return f"its weight is also that of {other.names[0]!r}, {why}"
        return verdict

    return [(layer, agreed(layer, verdict)) for layer, verdict in verdicts]


def _jobs(verdicts: Verdicts) -> list[Job]:
    jobs: dict[int, Job] = {}
    for layer, verdict in verdicts:
        if isinstance(verdict, DecompositionConfig):
            weight = id(layer.module._parameters["weight"])
            job = jobs.get(weight, Job((), verdict))
            jobs[weight] = replace(job, layers=(*job.layers, layer))
    return list(jobs.values())


def _check_weights(jobs: Sequence[Job]) -> None:
    absent = [job.name for job in jobs if job.modules[0].weight.is_meta]
    if absent:
        raise LayerError(
            f"there are no weights to decompose: {_listed(absent)} on the meta device; load the weights first "
            "(to rebuild a decomposed model and load its weights afterwards, use decompose_network)"
        )
    broken = [job.name for job in jobs if not is_finite(host_weight(job.modules[0]))]
    if broken:
        raise LayerError(
            f"expected finite weights, found NaN or infinity in {_listed(broken)}: mend the weights, "
            "or leave the layers out with DecompositionConfig(layers={name: False})"
        )


def _check_same_on_all_ranks(jobs: Sequence[Job], team: Team) -> None:
    """Check that every rank has the same weights to factor, by the same settings.

    Raises
    ------
    LayerError
        One has not; it is raised on all.
    """
    if team.size == 1:
        return
    own = {job.name: (repr(job.settings), fingerprint(job.modules[0], with_bias=True)) for job in jobs}
    for rank, other in enumerate(team.gather(own)):
        for name in [*own, *other]:
            if own.get(name) != other.get(name):
                raise LayerError(
                    f"layer {name!r} is not to be decomposed alike in process {rank} and process {team.index} of the "
                    "group: give every process the same model with the same weights and the same config, or "
                    "decompose in each by itself with distributed=False"
                )


def _factorise_all(jobs: Sequence[Job], report: Report, team: Team) -> list[Factors]:
    with _one_at_a_time:
        return _shared_out(lambda index: jobs[index].factorise(jobs[index].settings), jobs, report, team)


Result = TypeVar("Result")


def _shared_out(function: Callable[[int], Result], jobs: Sequence[Job], report: Report, team: Team) -> list[Result]:
    """What a function that spends its time in eigendecompositions gives for the index of every job, on every rank."""
    costs = [float(job.method.full_rank(job.conv)) ** 3 for job in jobs]
    own = team.mine(costs)
    finished = len(jobs) - len(own)

    def done(index: int) -> None:
        nonlocal finished
        finished += 1
        report(finished, len(jobs), jobs[own[index]].name)

    def computed(index: int) -> Result:
        # Grad and inference mode belong to a thread, and this may run in one of its own.
        with torch.inference_mode(False), torch.no_grad():
            return function(index)

    with exact_matmul():
        results = run_all(computed, own, costs=[costs[index] for index in own], alone_above=_ALONE_FROM**3, done=done)
    found: dict[int, Result] = {}
    for shared in team.gather(dict(zip(own, results, strict=True))):
        found.update(shared)
    return [found[index] for index in range(len(jobs))]


def _fit_all(
    model: nn.Module, jobs: Sequence[Job], calibration: Calibration, report: Report, team: Team
) -> tuple[list[tuple[Found, LayerPlan]], Outcome]:
    """For every layer of the jobs its plan, with factors fitted to the data, and what comes of them all."""
    runs = Runs(model, calibration)
    with _one_at_a_time, torch.inference_mode(False), torch.no_grad():
        fitted = fit_to_data(runs, jobs, lambda function: _shared_out(function, jobs, report, team), report, team)
        used = [job.gains(one.factors.rank) for job, one in zip(jobs, fitted, strict=True)]
        replaced = [
            Replaced(rows_for(job, one.factors, one.biases), rows_for(job, one.plain))
            for job, one, is_used in zip(jobs, fitted, used, strict=True)
            if is_used
        ]
        outcome, errors = judge(runs, replaced, team)
    told = iter(errors)
    plans = []
    for job, one, is_used in zip(jobs, fitted, used, strict=True):
        error = next(told) if is_used else None
        for layer, bias in zip(job.layers, one.biases, strict=True):
            plan = _planned(layer, job, one.factors, bias)
            if is_used:
                plan = replace(plan, fit=one.fit)
            if error is not None:
                plan = replace(plan, response_error=error[0], plain_response_error=error[1])
            plans.append((layer, plan))
    return plans, outcome


def _kept(layer: Found, reason: str) -> LayerPlan:
    parameters = None if layer.conv is None else layer.conv.parameters
    return LayerPlan(layer.names, layer.conv, False, reason, parameters=parameters, parameters_after=parameters)


def _planned(layer: Found, job: Job, factors: Factors, bias: torch.Tensor | None = None) -> LayerPlan:
    conv, module = cast(ConvSpec, layer.conv), cast(nn.Conv2d, layer.module)
    plan = LayerPlan(
        names=layer.names,
        conv=conv,
        decompose=True,
        reason=factors.why,
        method=job.method.name,
        mode=job.method.mode(conv),
        rank=factors.rank,
        parameters=conv.parameters,
        error=factors.error,
        factors=factors.weights,
        bias=bias,
        fingerprint=fingerprint(module, bias is not None),
    )
    if not job.gains(factors.rank):
        after = job.parameters_at(factors.rank)
        return replace(
            plan,
            decompose=False,
            reason=f"a split at rank {factors.rank} would have {after:,} parameters, no fewer than {conv.parameters:,}",
            parameters_after=conv.parameters,
            error=None,
            factors=(),
            bias=None,
        )
    return replace(plan, parameters_after=sum(stage.parameters for stage in plan.entries[0].stages))


def _saved(job: Job, plans: Sequence[LayerPlan]) -> int:
    """Parameters that the split saves: of the weight once, less a bias for each layer that gets one."""
    if not plans[0].decompose:
        return 0
    added = sum(plan.added_bias for plan in plans) * job.conv.out_channels
    return job.conv.parameters - job.parameters_at(cast(int, plans[0].rank)) - added


def _with_macs(plan: LayerPlan, calls: Calls | None) -> LayerPlan:
    if calls is None or plan.conv is None:
        return plan
    before = _macs((plan.conv,), calls)
    return replace(plan, macs=before, macs_after=_macs(plan.entries[0].stages, calls) if plan.decompose else before)


def _macs(stages: Sequence[ConvSpec], calls: Calls) -> int:
    total = 0
    for images, size in calls:
        for stage in stages:
            total += images * stage.macs(*size)
            size = stage.output_size(*size)
    return total


def _is_lazy(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, nn.parameter.UninitializedParameter)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
