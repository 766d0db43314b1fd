"""Times a model and the splits of its layers on a device, for a budget of latency.

Nothing is chosen by times that are not to be trusted: where the process does not get the CPU, or a layer alone seems to
take longer than the whole model, it is measured again a few times, and then given up with an error.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from .._report.units import name_of, settings_line
from .._run.inputs import batch_size_of, call_with, check_samples, checked_inputs, run_model
from .._run.intercept import watched
from .._run.interrupts import interrupt_if_pressed, left_whole
from .._run.isolation import untouched_generators
from .._run.placement import backend_of, memory_errors_named, placed_inputs, placed_model, released
from .._run.progress import ProgressFunction
from ..errors import AmctWarning, ConfigError, DeviceError, quoted
from ..tensor_decompose.methods.candidates import ranks_to_measure
from ..tensor_decompose.methods.latencies import Latencies, LayerLatency, Measured, Ranks
from ..tensor_decompose.methods.weight_group import WeightGroup
from ..tensor_decompose.model.replace import Replacement, replaced
from ..tensor_decompose.model.spec import LayerModule
from ..tensor_decompose.ranks.budget import Budget
from .benchmark_models import compile_errors_named
from .cpu_share import LEAST_SHARE
from .latency_table import LatencyTable
from .layer_inputs import blank_like
from .layer_latency import LayerTime, worth_splitting_at
from .timing import Comparison, compare
from .weight_on_device import WeightOnDevice, chain_like

# Pairs of groups for a layer and its split: some hundred of them are timed, and rescaled by the whole model afterwards.
_PAIRS = 7
# For the whole model in turn with its original, which is to be known to a percent.
_PAIRS_OF_MODELS = 11
# For the time of the original alone, by which nothing is decided but how far the times of its layers go.
_PAIRS_OF_ORIGINAL = 5
# Splits of a layer are not looked between whose times differ by less than this share of the time of the model, nor by
# less than this share of the layer's own: among tens of layers, finer steps change no choice.
_STEP_OF_MODEL, _STEP_OF_LAYER = 0.008, 0.12
# Seconds to wait before each further attempt, while other programs keep the CPU.
_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)


class DeviceStopwatch:
    """A `Stopwatch` for a model and its inputs on a device.

    Parameters
    ----------
    model
        The model. It is copied whenever something is timed.
    example_inputs
        What it is run on.
    budget
        A budget of latency, which says where and how to measure.

    Attributes
    ----------
    rank_multiple
        See `Stopwatch`.

    Raises
    ------
    BackendUnavailable
        The backend is not installed, or has no usable device here.
    ConfigError
        The device does not support the type, or there is none of this number; `ConfigTypeError` for a wrong type.
    InputsError
        The inputs are no tensor, tuple or mapping, or hold no sample.
    """

    def __init__(self, model: nn.Module, example_inputs: object, budget: Budget) -> None:
        self._model, self._compiled, self._refresh = model, budget.compiled, budget.refresh
        self._inputs = checked_inputs(example_inputs, "example_inputs")
        check_samples(self._inputs)
        lies = next((parameter.device for parameter in model.parameters() if not parameter.is_meta), None)
        lies = torch.device("cpu") if lies is None else lies
        self._backend = backend_of(lies.type if budget.backend is None else budget.backend)
        of_model = lies.index if lies.type == self._backend.name else None
        index = (of_model or 0) if budget.index is None else budget.index
        self._device = self._backend.device(index)
        self._info = self._backend.devices()[index]
        floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
        self._dtype = budget.dtype or next(floating, torch.float32)
        if self._dtype not in self._info.dtypes:
            raise ConfigError(
                f"budget: {self._info.name} does not compute convolutions in {name_of(self._dtype)}: choose among "
                f"{', '.join(map(name_of, self._info.dtypes))} with Budget(latency={budget.latency}, dtype=…)"
            )
        self.rank_multiple = self._backend.rank_multiple(self._dtype)

    def time_layers(self, weights: Sequence[Mapping[str, WeightGroup]], report: ProgressFunction) -> Latencies:
        """See `Stopwatch`."""
        with self._measuring() as (model, arguments):
            table = LatencyTable(self._setting, refresh=self._refresh)
            seconds = self._seconds_of_model(model, arguments)
            modules = dict(model.named_modules(remove_duplicate=False))
            names = [layer.names[0] for of_method in weights for layer in next(iter(of_method.values())).layers]
            arrivals = self._arrivals(model, arguments, [modules[name] for name in names])
            layers = []
            for by_method in weights:
                group = next(iter(by_method.values()))
                report(0, len(weights), f"timing {group.name}")
                weight = WeightOnDevice(group, modules, arrivals, self._device)
                try:
                    layers.append(self._time_weight(weight, by_method, table, seconds))
                finally:
                    table.save()
            return Latencies(round(seconds * 1e9), tuple(layers), self._described)

    def time_model(self, splits: Sequence[tuple[WeightGroup, Ranks]]) -> Measured:
        """See `Stopwatch`. The weights of the chains are random, at the scale of the originals."""
        with self._measuring() as (model, arguments):
            # A copy with the same weights: only the layers that are split differ.
            shared: dict[int, Any] = {id(one): one for one in (*model.parameters(), *model.buffers())}
            duplicate = copy.deepcopy(model, shared)
            modules = dict(duplicate.named_modules(remove_duplicate=False))
            replacements = [
                Replacement(layer.names, module, chain_like(module, split))
                for group, ranks in splits
                for layer in group.layers
                for module, split in [(cast(LayerModule, modules[layer.names[0]]), group.split_of(layer, ranks))]
            ]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AmctWarning)  # those of the surgery come when the plan is applied
                with replaced(duplicate, replacements) as (decomposed, _):
                    pass
            before, after = (functools.partial(call_with, one, arguments) for one in self._ready((model, decomposed)))
            found = self._compare((before, after), "the decomposed model", _PAIRS_OF_MODELS)
            gain = found.speed_up
            return Measured(1 / gain.ratio, 1 / gain.high, 1 / gain.low, gain.verdict == "faster", found.cpu_share)

    @contextlib.contextmanager
    def _measuring(self) -> Iterator[tuple[nn.Module, Any]]:
        """A copy of the model and of the inputs on the device, in the settings to measure in."""
        backend, device = self._backend, self._device
        with contextlib.ExitStack() as stack:
            stack.enter_context(untouched_generators([device]))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            stack.enter_context(left_whole(backend.prepared(device)))
            stack.enter_context(memory_errors_named(backend, device, self._inputs))
            stack.enter_context(released(backend, device))
            model = placed_model(self._model, backend, device, self._dtype)
            arguments = placed_inputs(self._inputs, backend, device, self._dtype)
            run_model(model, arguments, f"example_inputs on {device} in {name_of(self._dtype)}")
            if self._compiled:
                stack.enter_context(compile_errors_named(device))
            yield model, arguments

    def _seconds_of_model(self, model: nn.Module, arguments: Any) -> float:
        (ready,) = self._ready((model,))
        call = functools.partial(call_with, ready, arguments)
        found = self._compare((call, call), "the whole model", _PAIRS_OF_ORIGINAL)
        return min(found.before.median, found.after.median)

    def _arrivals(
        self, model: nn.Module, arguments: Any, layers: Sequence[nn.Module]
    ) -> dict[nn.Module, list[torch.Tensor]]:
        """By layer its inputs in one run, as tensors on the meta device."""
        arrivals: dict[nn.Module, list[torch.Tensor]] = {layer: [] for layer in layers}
        with watched(arrivals, lambda layer, arrived: arrivals[layer].append(blank_like(arrived))):
            call_with(model, arguments)
        return arrivals

    def _time_weight(
        self, weight: WeightOnDevice, by_method: Mapping[str, WeightGroup], table: LatencyTable, most: float
    ) -> LayerLatency:
        """Time the layers of a weight in turn with their splits, as far as the table does not know them.

        Parameters
        ----------
        most
            Seconds that the whole model takes, so that no layer takes longer.
        """
        befores: list[float] = []

        def measure(group: WeightGroup, ranks: Ranks) -> LayerTime:
            what = weight.described(group, ranks)
            found = table.get(what)
            if found is None:
                calls = weight.calls(group, ranks, self._ready)
                timed = self._compare(calls, f"layer {quoted(group.name)}", _PAIRS, most)
                gain = timed.speed_up
                found = LayerTime(timed.before.median, 1 / gain.ratio, gain.verdict == "faster")
                table.add(what, found)
            befores.append(found.before)
            return found

        shares: dict[tuple[str, Ranks], float] = {}
        for name, group in by_method.items():
            path = ranks_to_measure(group)
            if path:
                step = _step(measure(group, path[0]).before / most)
                found = worth_splitting_at(path, functools.partial(measure, group), step)
                shares.update({(name, ranks): time.share for ranks, time in found.items()})
        before = 1e9 * statistics.median(befores) if befores else 0.0
        return LayerLatency(round(before), {split: round(share * before) for split, share in shares.items()})

    def _ready(self, modules: Sequence[nn.Module]) -> Sequence[Callable[..., object]]:
        """The modules, compiled where the budget asks for it."""
        if not self._compiled:
            return modules
        torch.compiler.reset()  # what was compiled before must not use up the limit of entries
        return [self._backend.compile(module) for module in modules]

    def _compare(
        self, calls: tuple[Callable[[], object], Callable[[], object]], what: str, pairs: int, most: float = math.inf
    ) -> Comparison:
        """Time two calls in turn, again where the times are not to be trusted.

        Parameters
        ----------
        most
            Seconds that the first takes at most, if nothing disturbs it.

        Raises
        ------
        DeviceError
            They are not to be trusted after several attempts.
        """
        for pause in (*_PAUSES, None):
            interrupt_if_pressed()
            found = compare(*calls, backend=self._backend, device=self._device, pairs=pairs)
            if found.doubt is not None:
                doubt = f"{found.doubt}, and {LEAST_SHARE:.0%} are needed"
            elif found.before.median * LEAST_SHARE > most:
                doubt = "it alone seems to take longer than the whole model"
            else:
                return found
            if pause is not None:
                time.sleep(pause)
        raise DeviceError(
            f"the machine is too busy to choose by times: of {len(_PAUSES) + 1} times of {what} on {self._device} none "
            f"is to be trusted: {doubt}. Stop other programs, raise the CPU quota of the container, or use fewer "
            "threads (torch.set_num_threads), and plan again: what was timed undisturbed is kept"
        )

    @property
    def _setting(self) -> dict[str, str]:
        """All that times depend on besides the layers, value by name."""
        info = self._info
        usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        return {
            "device": info.name,
            "backend": info.backend,
            "family": info.family,
            "dtype": name_of(self._dtype),
            "compiled": str(self._compiled),
            "processors": str(len(usable)),
            "torch": torch.__version__,
            **{f"version of {name}": version for name, version in info.versions.items()},
            **{f"setting {name}": value for name, value in self._backend.settings(self._device).items()},
        }

    @property
    def _described(self) -> str:
        """Where and how it is measured, in words."""
        batch = batch_size_of(self._inputs)
        how = [
            self._info.name,
            f"{self._info.backend}:{self._info.index}",
            *([] if batch is None else [f"batch {batch}"]),
            name_of(self._dtype),
            "compiled" if self._compiled else "eager",
        ]
        return f"{', '.join(how)} ({settings_line(self._backend.settings(self._device))})"


def _step(share: float) -> float:
    """How far apart the times of splits of a layer may be, relative to its own, that takes this share of the model's.

    In powers of two, so that another measurement of the same leads to the same steps.
    """
    step = _STEP_OF_LAYER
    while step * share < _STEP_OF_MODEL and step < 1:
        step *= 2
    return step
