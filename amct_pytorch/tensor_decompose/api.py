"""The functions of tensor decomposition."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Iterator
from typing import cast

from torch import nn

from .._run.interrupts import interrupts_deferred
from .._run.process_group import ProcessGroup, joined_processes
from .._run.progress import ProgressFunction, reporting
from .._run.reuse import Reuse
from .._run.turns import one_at_a_time
from .._storage.reading import read_text
from ..errors import (
    ConfigError,
    ConfigTypeError,
    InfoFileAccessError,
    InfoFileError,
    InfoFileNotFound,
    LayerError,
    quoted,
    shown,
    warn_user,
)
from .calibration.data import Calibration
from .config import DecompositionConfig
from .info_file.rebuild import rebuilt, untied
from .info_file.schema import parse
from .methods.latencies import Stopwatch
from .model.layers import Survey, check_model, slots, survey
from .model.replace import replaced
from .model.spec import LayerSpec, kinds_named
from .name_rules import check_keys_name_layers
from .plan.agreement import check_alike
from .plan.apply import apply_plan, checked_path
from .plan.listed import axes_in_use, is_listed
from .plan.log import log_chosen, log_rebuilt, warn_if_none
from .plan.plan import DecompositionPlan
from .plan.planner import make_plan
from .ranks.budget import Budget


def auto_decomposition(
    model: nn.Module,
    decompose_info_path: str | os.PathLike[str] | None = None,
    *,
    config: DecompositionConfig | None = None,
    budget: Budget | None = None,
    calibration: Calibration | None = None,
    example_inputs: object = None,
    progress: bool | ProgressFunction = False,
    distributed: bool | datetime.timedelta = True,
) -> tuple[nn.Module, dict[str, list[str]]]:
    """Decompose the layers of a pretrained model that are worth it, in place.

    With the default configuration layers, modes and ranks are those of Huawei AMCT. Call it before the
    parameters are given to an optimizer and before the model is wrapped in DistributedDataParallel.

    Parameters
    ----------
    model
        A model with pretrained weights, on any device; the computation is done on the host.
    decompose_info_path
        Where to write the decomposition information file, from which `decompose_network` rebuilds the
        decomposed structure; None writes none. An existing file is replaced, missing folders are made.
    config
        Method, ranks, layers; the default is ``DecompositionConfig()``.
    budget, calibration, example_inputs
        As in `plan_decomposition`.
    progress
        True draws a bar; a function is called with (done, total, layer name).
    distributed
        See `plan_decomposition`. The first process alone writes the file, when all have agreed.

    Returns
    -------
    model : torch.nn.Module
        The model given, changed. Only where that is itself a layer, such as a `torch.nn.Conv2d`, it is left alone,
        and a new module returned.
    changes : dict
        Names of the new layers by the name of the layer they replace:
        ``{"conv1": ["conv1.0", "conv1.1"], …}``.

    Raises
    ------
    AmctError
        One of its subclasses; see `amct_pytorch.errors`. Model, file and random generators are as they were.
    """
    with one_at_a_time(), interrupts_deferred(second_at_once=True), joined_processes(distributed) as processes:
        place = checked_path(decompose_info_path, processes)
        found = survey(model)
        _check_settings(config, budget, calibration, example_inputs)
        check_alike(processes, "auto_decomposition", budget, calibration, example_inputs, decompose_info_path)
        stopwatch = _stopwatch_for(found.model, budget, example_inputs)
        config = _config_for(config, budget, stopwatch)
        reuse = Reuse(memory=0)
        plan = _plan(found, config, budget, calibration, example_inputs, progress, processes, stopwatch, reuse)
        result = apply_plan(plan.layers, found, place, processes)
        warn_if_none(plan.layers, found, config)
        return result


def plan_decomposition(
    model: nn.Module,
    config: DecompositionConfig | None = None,
    *,
    budget: Budget | None = None,
    calibration: Calibration | None = None,
    example_inputs: object = None,
    progress: bool | ProgressFunction = False,
    distributed: bool | datetime.timedelta = True,
) -> DecompositionPlan:
    """Say what a decomposition would do to a model, without changing it.

    Parameters
    ----------
    model
        A model with pretrained weights, on any device; the computation is done on the host.
    config
        Method, ranks, layers; the default is ``DecompositionConfig()``, and with a budget
        ``DecompositionConfig(method="auto", rule="any")``; for a latency ranks are then multiples of what the device
        computes in one piece.
    budget
        How much of the whole model may be left, such as ``Budget(macs=0.5)`` or ``Budget(latency=0.6)``: methods, ranks
        and the layers to decompose are chosen together, and no ranks are to be given.
    calibration
        Unlabelled inputs to fit the factors to, which keeps far more accuracy than the split of the weights
        alone. The plan then shows errors of responses and outputs instead of weights.
    example_inputs
        Inputs to run the model on once, in eval mode, to count multiply-accumulates (MACs): a tensor, a
        tuple of arguments, or a mapping of keywords, on the model's device. Without them the plan has none. For a
        budget of latency, a copy of the model is timed on copies of them.
    progress
        True draws a bar; a function is called with (done, total, layer name), and with calibration also before
        each batch of the first pass, as (0, total, "batch 3"); for a budget of latency, before each layer that is
        timed, as (0, total, "timing conv1").
    distributed
        Where torch.distributed is initialised, every process of the default group must call this with the same
        model. They share the layers out among them and end with the same plan to the last bit; calibration batches
        may differ, and those of all processes count. A process that fails fails all. One that hangs or is stopped
        is given up after two hours, or after the time given here as a `datetime.timedelta`; one that does not come
        to this call, after five minutes at most. With False each works by itself.

    Returns
    -------
    DecompositionPlan
        Prints as a table; ``plan.apply(model, decompose_info_path=None)`` carries it out.

    Raises
    ------
    AmctError
        One of its subclasses; see `amct_pytorch.errors`. Model and random generators are as they were.
    """
    return planned(model, config, budget, calibration, example_inputs, progress, distributed, Reuse(memory=0))


def planned(
    model: nn.Module,
    config: DecompositionConfig | None,
    budget: Budget | None,
    calibration: Calibration | None,
    example_inputs: object,
    progress: bool | ProgressFunction,
    distributed: bool | datetime.timedelta,
    reuse: Reuse,
) -> DecompositionPlan:
    """As `plan_decomposition`, with what plans for other budgets have found out, if the model is the same still."""
    with one_at_a_time(), interrupts_deferred(second_at_once=True), joined_processes(distributed) as processes:
        found = survey(model)
        _check_settings(config, budget, calibration, example_inputs)
        check_alike(processes, "plan_decomposition", budget, calibration, example_inputs)
        stopwatch = _stopwatch_for(found.model, budget, example_inputs)
        config = _config_for(config, budget, stopwatch)
        return _plan(found, config, budget, calibration, example_inputs, progress, processes, stopwatch, reuse)


def _check_settings(config: object, budget: object, calibration: object, example_inputs: object) -> None:
    """Check that settings are of their types, and go together.

    Raises
    ------
    ConfigTypeError, ConfigError
        One is not, or they do not.
    """
    if config is not None and not isinstance(config, DecompositionConfig):
        raise ConfigTypeError(f"config must be a DecompositionConfig, found {quoted(config)}")
    if calibration is not None and not isinstance(calibration, Calibration):
        raise ConfigTypeError(
            f"calibration must be a Calibration, found {type(calibration).__name__}: Calibration(batches)"
        )
    if budget is None:
        return
    if not isinstance(budget, Budget):
        raise ConfigTypeError(f"budget must be a Budget, found {quoted(budget)}: Budget(macs=0.5)")
    if budget.macs is not None and example_inputs is None:
        raise ConfigError(f"budget: {budget} needs example_inputs, on which MACs are counted")
    if budget.latency is not None and example_inputs is None:
        raise ConfigError(f"budget: {budget} needs example_inputs, on which the model is timed")
    if config is not None and config.gives_ranks:
        raise ConfigError(
            f"budget: {budget} chooses the ranks of all layers: leave out rank=… and rules with a rank; to keep a "
            "layer, give layers={name: False}"
        )


def _stopwatch_for(model: nn.Module, budget: Budget | None, example_inputs: object) -> Stopwatch | None:
    """What times the model for a budget of latency; None where nothing is to be timed."""
    if budget is None or budget.latency is None:
        return None
    # Measuring knows what is decomposed, and decomposing no device; so the two meet here alone.
    from .._measure.stopwatch import DeviceStopwatch

    return DeviceStopwatch(model, example_inputs, budget)


def _config_for(
    config: DecompositionConfig | None, budget: Budget | None, stopwatch: Stopwatch | None
) -> DecompositionConfig:
    """The config given, or the default one."""
    if config is not None:
        return config
    if budget is None:
        return DecompositionConfig()
    config = DecompositionConfig(method="auto", rule="any")
    return config if stopwatch is None else dataclasses.replace(config, rank_multiple=stopwatch.rank_multiple)


def _plan(
    found: Survey,
    config: DecompositionConfig,
    budget: Budget | None,
    calibration: Calibration | None,
    example_inputs: object,
    progress: bool | ProgressFunction,
    processes: ProcessGroup,
    stopwatch: Stopwatch | None,
    reuse: Reuse,
) -> DecompositionPlan:
    # A rule may well name a layer that an earlier call has decomposed.
    known = [*(name for layer in found.layers if is_listed(layer, config) for name in layer.names), *found.chains]
    for text in check_keys_name_layers(config.named_layers(), known, kinds_named(axes_in_use(config))):
        warn_user(text)
    with reporting(progress, "decompose") as report:
        plan = make_plan(found, config, budget, calibration, example_inputs, report, processes, stopwatch, reuse)
    log_chosen(plan.budget)
    return plan


def decompose_network(
    model: nn.Module, decompose_info_path: str | os.PathLike[str]
) -> tuple[nn.Module, dict[str, list[str]]]:
    """Give a model the decomposed structure that a decomposition information file describes, in place.

    The new layers await their weights: load them with ``model.load_state_dict(…)``. Until then they hold what
    a new layer of torch would, drawn from a generator of their own. On the meta device too, to load big
    checkpoints with ``assign=True``.

    Parameters
    ----------
    model
        The model before decomposition, as it was given to `auto_decomposition`; its weights do not matter.
    decompose_info_path
        A file written by `auto_decomposition`, or by Huawei AMCT.

    Returns
    -------
    model : torch.nn.Module
        The model given, changed. Only where that is itself a layer, such as a `torch.nn.Conv2d`, it is left alone,
        and a new module returned.
    changes : dict
        As `auto_decomposition` returns it. Layers that are decomposed already as the file says are left alone.

    Raises
    ------
    InfoFileNotFound, InfoFileAccessError
        The file cannot be read.
    InfoFileError
        Its content is wrong, or not of this model.
    ModelError, LayerError
        The model, or a layer that the file names, cannot be decomposed. The model is as it was.
    """
    check_model(model)
    text = read_text(
        decompose_info_path,
        "decompose_info_path",
        "decomposition information file",
        error=InfoFileAccessError,
        missing=InfoFileNotFound,
        content=InfoFileError,
    )
    with interrupts_deferred(), rebuilding(model, text, decompose_info_path) as result:
        return result


@contextlib.contextmanager
def rebuilding(
    model: nn.Module, content: str, decompose_info_path: str | os.PathLike[str]
) -> Iterator[tuple[nn.Module, dict[str, list[str]]]]:
    """As `decompose_network`, with the content of the file, and undone if the body of the with statement fails."""
    with one_at_a_time():
        found = survey(model)
        try:
            entries = parse(content, _geometry(found))
            replacements = rebuilt(entries, found.layers, found.chains, slots(model))
        except InfoFileError as error:
            raise InfoFileError(f"{shown(os.fspath(decompose_info_path))}: {error}") from error
        for text in untied(replacements, found.layers):
            warn_user(text)
        with replaced(model, replacements) as result:
            yield result
        log_rebuilt(result[1], decompose_info_path)


def _geometry(found: Survey) -> dict[str, LayerSpec | str]:
    """By name the geometry of every layer that a file may name, or the reason in words why it may not."""
    geometry: dict[str, LayerSpec | str] = {}
    for name, chain in found.chains.items():
        try:
            geometry[name] = chain.spec
        except LayerError as error:
            geometry[name] = str(error)
    for layer in found.layers:
        geometry.update(dict.fromkeys(layer.names, layer.why_not or cast(LayerSpec, layer.spec)))
    return geometry
