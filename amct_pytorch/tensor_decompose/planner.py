"""From a model to a plan. The model is only read; nothing is drawn from a random generator."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from ..errors import ConfigError, LayerError
from .config import DecompositionConfig
from .conv import ConvSpec, host_weight
from .infofile import Entry
from .linalg import exact_matmul
from .methods import Factors, get_method
from .plan import DecompositionPlan, LayerPlan, fingerprint
from .probe import Calls, input_sizes
from .progress import Report
from .survey import Found
from .workers import run_all

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


@dataclass(frozen=True)
class _Job:
    """A weight to factor: the layers that share it, and their common settings."""

    layers: tuple[Found, ...]
    settings: DecompositionConfig

    @property
    def conv(self) -> ConvSpec:
        return cast(ConvSpec, self.layers[0].conv)

    @property
    def module(self) -> nn.Conv2d:
        return cast(nn.Conv2d, self.layers[0].module)

    @property
    def name(self) -> str:
        return self.layers[0].names[0]


def make_plan(
    model: nn.Module, layers: Sequence[Found], config: DecompositionConfig, example_inputs: object, report: Report
) -> DecompositionPlan:
    """The plan for a model.

    Parameters
    ----------
    layers
        What `survey` found in it.
    example_inputs
        Inputs to count MACs on, or None.
    report
        Told (done, total, layer name) as weights are factored.

    Raises
    ------
    LayerError
        Layers to decompose have no weights, or weights that are not finite.
    InputsError
        The model fails on the example inputs.
    ConfigError
        A rank is not possible for its layer.
    """
    verdicts = _agree_on_shared([(layer, _verdict(layer, config)) for layer in layers])
    jobs = _jobs(verdicts)
    _check_weights(jobs)
    with_geometry = [layer for layer in layers if layer.conv is not None]
    calls: dict[tuple[str, ...], Calls] = {}
    if example_inputs is not None:
        sizes = input_sizes(model, [layer.module for layer in with_geometry], example_inputs)
        calls = {layer.names: size for layer, size in zip(with_geometry, sizes, strict=True)}
    rows = {layer.names: _kept(layer, verdict) for layer, verdict in verdicts if isinstance(verdict, str)}
    for job, (factors, mark) in zip(jobs, _factorise_all(jobs, report), strict=True):
        rows.update((layer.names, _planned(layer, job, factors, mark)) for layer in job.layers)
    plans = tuple(_with_macs(rows[layer.names], calls.get(layer.names)) for layer in layers)
    parameters = sum(parameter.numel() for parameter in model.parameters() if not _is_lazy(parameter))
    saved = sum(
        job.conv.parameters - cast(int, rows[job.layers[0].names].parameters_after)
        for job in jobs
        if rows[job.layers[0].names].decompose
    )
    return DecompositionPlan(plans, parameters, parameters - saved)


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


def _jobs(verdicts: Verdicts) -> list[_Job]:
    jobs: dict[int, _Job] = {}
    for layer, verdict in verdicts:
        if isinstance(verdict, DecompositionConfig):
            weight = id(layer.module._parameters["weight"])
            job = jobs.get(weight, _Job((), verdict))
            jobs[weight] = replace(job, layers=(*job.layers, layer))
    return list(jobs.values())


def _check_weights(jobs: Sequence[_Job]) -> None:
    absent = [job.name for job in jobs if job.module.weight.is_meta]
    if absent:
        raise LayerError(
            f"there are no weights to decompose: {_listed(absent)} on the meta device; load the weights first "
            "(to rebuild a decomposed model and load its weights afterwards, use decompose_network)"
        )
    broken = [job.name for job in jobs if not _is_finite(host_weight(job.module))]
    if broken:
        raise LayerError(
            f"expected finite weights, found NaN or infinity in {_listed(broken)}: mend the weights, "
            "or leave the layers out with DecompositionConfig(layers={name: False})"
        )


def _is_finite(weight: torch.Tensor) -> bool:
    # Minimum and maximum show every NaN and infinity, and need no copy of the weight.
    least, most = torch.aminmax(weight)
    return bool(torch.isfinite(least) & torch.isfinite(most))


def _factorise_all(jobs: Sequence[_Job], report: Report) -> list[tuple[Factors, int]]:
    finished = 0

    def done(index: int) -> None:
        nonlocal finished
        finished += 1
        report(finished, len(jobs), jobs[index].name)

    sides = [get_method(job.settings.method).full_rank(job.conv) for job in jobs]
    with _one_at_a_time, exact_matmul():
        return run_all(_factorise, jobs, costs=[side**3 for side in sides], alone_above=_ALONE_FROM**3, done=done)


def _factorise(job: _Job) -> tuple[Factors, int]:
    # Grad and inference mode belong to a thread, and this may run in one of its own.
    with torch.inference_mode(False), torch.no_grad():
        weight = host_weight(job.module)
        mark = fingerprint(weight)
        precision = torch.float64 if weight.dtype == torch.float64 else torch.float32
        try:
            return get_method(job.settings.method).factorise(weight.to(precision), job.conv, job.settings), mark
        except ConfigError as error:
            raise ConfigError(f"layer {job.name!r}: {error}") from None


def _kept(layer: Found, reason: str) -> LayerPlan:
    parameters = None if layer.conv is None else layer.conv.parameters
    return LayerPlan(layer.names, layer.conv, False, reason, parameters=parameters, parameters_after=parameters)


def _planned(layer: Found, job: _Job, factors: Factors, mark: int) -> LayerPlan:
    conv = cast(ConvSpec, layer.conv)
    method = get_method(job.settings.method)
    entry = Entry(layer.names[0], method.name, conv, factors.rank)
    after = sum(stage.parameters for stage in entry.stages)
    plan = LayerPlan(
        names=layer.names,
        conv=conv,
        decompose=True,
        reason=factors.why,
        method=method.name,
        mode=method.mode(conv),
        rank=factors.rank,
        parameters=conv.parameters,
        parameters_after=after,
        error=factors.error,
        factors=factors.weights,
        fingerprint=mark,
    )
    if job.settings.require_gain and after >= conv.parameters:
        return replace(
            plan,
            decompose=False,
            reason=f"a split at rank {factors.rank} would have {after:,} parameters, no fewer than {conv.parameters:,}",
            parameters_after=conv.parameters,
            error=None,
            factors=(),
        )
    return plan


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
