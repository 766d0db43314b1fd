"""Whether a decomposed model is faster than its original on a device, as a whole and layer by layer."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ._measure.benchmark_report import WHOLE, BenchmarkReport, BenchmarkRun, LayerBenchmark
from ._measure.pairing import Pair, pairs_of
from ._measure.timing import Comparison, compare
from ._report.units import name_of
from ._run.inputs import batch_size_of, call_with, checked_inputs, resized, run_model
from ._run.intercept import watched
from ._run.isolation import untouched_generators
from ._run.placement import (
    backend_of,
    checked_dtypes,
    memory_errors_named,
    placed_inputs,
    placed_model,
    ran_out_of_memory,
    released,
)
from ._run.progress import Report, Steps, reporting
from .backend import Backend
from .errors import ConfigError, DeviceError, warn_user
from .tensor_decompose.model.spec import spec_of

__all__ = ["BenchmarkReport", "BenchmarkRun", "LayerBenchmark", "benchmark"]


def benchmark(
    original: nn.Module,
    decomposed: nn.Module,
    inputs: object,
    backend: str | Backend = "cpu",
    *,
    index: int = 0,
    batch_sizes: Sequence[int] | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
    compiled: bool = False,
    progress: bool | Report = False,
) -> BenchmarkReport:
    """Time a model and its decomposed form on a device, in turn, as wholes and layer by layer.

    See `amct_pytorch._measure.timing` for how. Both run in eval mode without gradients, under the process's own
    settings of precision, which the report names. A layer is timed on random values of the shapes that reach it;
    layers that are alike are timed once. Weights do not matter to the times, so a model from `decompose_network`
    will do.

    Parameters
    ----------
    original
        The model before decomposition: a copy kept, since decomposition changes the model it is given.
    decomposed
        The decomposed model.
    inputs
        A tensor, a tuple of arguments, or a mapping of keywords; on any device.
    backend
        A name as `list_backends` tells them, or a `Backend`.
    index
        Number of the device.
    batch_sizes
        Numbers of samples to run at, made by repeating or cutting the inputs; by default as they are. One that does
        not fit into the memory of the device is halved until it does, with a warning.
    dtypes
        Floating-point types to run in; by default that of the original's weights.
    compiled
        Measure compiled models and layers (`torch.compile`, on an NPU in graph mode) beside the eager ones. That
        empties the caches of torch.compile, so models compiled before are compiled anew at their next call.
    progress
        True draws a bar; a function is called with (done, total, what was measured).

    Returns
    -------
    BenchmarkReport
        Models, inputs, random generators and settings are as they were.

    Raises
    ------
    BackendUnavailable, ConfigError
        There is no such device, or it does not have a type; a batch size is not possible.
    ModelError, LayerError
        The two are not a model and its decomposed form.
    InputsError, DeviceError
        A model fails on the inputs, cannot be moved or compiled, or the memory of the device does not suffice.
    """
    chosen = backend_of(backend)
    device = chosen.device(index)
    info = chosen.devices()[index]
    count = len(pairs_of(original, decomposed))
    types = checked_dtypes(dtypes, original, info)
    inputs = checked_inputs(inputs, "inputs")
    sizes = _checked_batch_sizes(batch_sizes, inputs)
    runs: list[BenchmarkRun] = []
    fallbacks: dict[str, None] = {}
    with reporting(progress, "benchmark") as report, untouched_generators([device]), torch.no_grad():
        steps = Steps(report, len(types) * len(sizes) * (1 + compiled) * (count + 1))
        with chosen.prepared(device):
            for dtype, size in itertools.product(types, sizes):
                setting = _Setting(chosen, device, dtype, compiled, steps, fallbacks)
                runs += _at_most(size, original, decomposed, inputs, setting)
    return BenchmarkReport(info, tuple(runs))


@dataclass(frozen=True)
class _Setting:
    """What the measurements of one type have in common."""

    backend: Backend
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    steps: Steps
    fallbacks: dict[str, None]  # seen so far, in their order

    def compare(self, before: Callable[[], object], after: Callable[[], object], name: str) -> Comparison:
        comparison = compare(before, after, backend=self.backend, device=self.device)
        self.steps.done(name)
        return comparison


def _at_most(
    size: int | None, original: nn.Module, decomposed: nn.Module, inputs: Any, setting: _Setting
) -> list[BenchmarkRun]:
    """The runs at a batch size, or at the largest half, quarter… of it that the memory suffices for."""
    backend, device = setting.backend, setting.device
    notes: tuple[str, ...] = ()
    while size is not None and size > 1:
        try:
            with released(backend, device):
                return _measure(original, decomposed, resized(inputs, size), setting, notes)
        except Exception as error:
            if not ran_out_of_memory(backend, error):
                raise
        text = f"a batch of {size} does not fit into the memory of {device} in {name_of(setting.dtype)}"
        warn_user(f"{text}: halved to {size // 2}")
        notes = (*notes, f"{text}.")
        size //= 2
    arguments = inputs if size is None else resized(inputs, size)
    with released(backend, device), memory_errors_named(backend, device, arguments):
        return _measure(original, decomposed, arguments, setting, notes)


def _measure(
    original: nn.Module, decomposed: nn.Module, inputs: Any, setting: _Setting, notes: tuple[str, ...]
) -> list[BenchmarkRun]:
    """The eager run, and the compiled one where asked for."""
    backend, device, dtype = setting.backend, setting.device, setting.dtype
    before, after = (placed_model(model, backend, device, dtype) for model in (original, decomposed))
    arguments = placed_inputs(inputs, backend, device, dtype)
    pairs = pairs_of(before, after)
    arrivals: dict[nn.Module, list[torch.Tensor]] = {pair.original: [] for pair in pairs}

    def record(layer: nn.Module, arrived: torch.Tensor) -> None:
        blank = torch.empty_strided(arrived.shape, arrived.stride(), dtype=arrived.dtype, device="meta")
        arrivals[layer].append(blank)

    called = f"inputs on {device} in {name_of(dtype)}"
    with backend.fallbacks() as names:
        with watched(arrivals, record):
            run_model(before, arguments, called)
        run_model(after, arguments, called)
    setting.fallbacks.update(dict.fromkeys(names))
    memory = [_peak_memory(model, arguments, setting) for model in (before, after)]
    runs = []
    for compiled in (False, True) if setting.compiled else (False,):
        whole = _compiled_pair(before, after, backend) if compiled else (before, after)
        with _compile_errors_named(device) if compiled else contextlib.nullcontext():
            calls = [_call_of(model, arguments) for model in whole]
            comparison = setting.compare(calls[0], calls[1], WHOLE)
            layers = _compare_layers(pairs, arrivals, setting, compiled)
        runs.append(
            BenchmarkRun(
                dtype=dtype,
                batch_size=batch_size_of(inputs),
                compiled=compiled,
                settings=backend.settings(device),
                layers=layers,
                model=comparison,
                parameters=_parameters(before),
                parameters_after=_parameters(after),
                peak_memory=None if compiled else memory[0],
                peak_memory_after=None if compiled else memory[1],
                fallbacks=tuple(setting.fallbacks),
                notes=notes,
            )
        )
    return runs


def _compare_layers(
    pairs: Sequence[Pair], arrivals: dict[nn.Module, list[torch.Tensor]], setting: _Setting, compiled: bool
) -> tuple[LayerBenchmark, ...]:
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
        layers.append(
            LayerBenchmark(
                name=pair.name,
                conv=str(spec),
                mode=pair.mode,
                rank=pair.rank,
                calls=len(arrived),
                parameters=spec.parameters,
                parameters_after=sum(stage.parameters for stage in stages),
                macs=sum(_macs([spec], blank) for blank in arrived),
                macs_after=sum(_macs(stages, blank) for blank in arrived),
                comparison=measured.get(alike),
            )
        )
    return tuple(layers)


def _compare_layer(pair: Pair, arrived: Sequence[torch.Tensor], setting: _Setting, compiled: bool) -> Comparison:
    draw = torch.Generator("cpu").manual_seed(0)
    made: dict[object, torch.Tensor] = {}
    images = []
    for blank in arrived:
        kind = (blank.shape, blank.stride())
        if kind not in made:
            # Drawn and laid out on the host: not every device can do either.
            values = torch.empty_strided(blank.shape, blank.stride(), dtype=torch.float32, device="cpu")
            made[kind] = values.normal_(generator=draw).to(setting.device, blank.dtype)
        images.append(made[kind])
    layers: tuple[Callable[..., object], Callable[..., object]] = (pair.original, pair.decomposed)
    if compiled:
        layers = _compiled_pair(pair.original, pair.decomposed, setting.backend)
    return setting.compare(_calls_of(layers[0], images), _calls_of(layers[1], images), pair.name)


def _peak_memory(model: nn.Module, arguments: Any, setting: _Setting) -> int:
    """Bytes at the peak of a forward pass, with those that the model holds itself."""
    with setting.backend.peak_memory(setting.device) as peak:
        call_with(model, arguments)
    return peak.bytes + sum(tensor.nbytes for tensor in itertools.chain(model.parameters(), model.buffers()))


def _compiled_pair(
    before: nn.Module, after: nn.Module, backend: Backend
) -> tuple[Callable[..., object], Callable[..., object]]:
    # Compiled code is kept by the code of the module's class, of which only so many forms are compiled: those of the
    # layers before must not count.
    torch.compiler.reset()
    return backend.compile(before), backend.compile(after)


@contextlib.contextmanager
def _compile_errors_named(device: torch.device) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, DeviceError):
            raise
        raise DeviceError(
            f"the models cannot be compiled for {device} ({type(error).__name__}: {error}): "
            "leave compiled=True out, or mend what torch.compile names"
        ) from error


def _call_of(model: Callable[..., object], arguments: Any) -> Callable[[], object]:
    return lambda: call_with(model, arguments)


def _calls_of(layer: Callable[..., object], images: Sequence[torch.Tensor]) -> Callable[[], object]:
    def call() -> None:
        for image in images:
            layer(image)

    return call


def _macs(stages: Sequence[Any], blank: torch.Tensor) -> int:
    """Multiply-accumulates of convolutions in a row for an input of this shape."""
    images = blank.shape[0] if blank.dim() == 4 else 1
    size = (blank.shape[-2], blank.shape[-1])
    total = 0
    for stage in stages:
        total += images * stage.macs(*size)
        size = stage.output_size(*size)
    return total


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _checked_batch_sizes(batch_sizes: Sequence[int] | None, inputs: Any) -> list[int | None]:
    own = batch_size_of(inputs)
    if batch_sizes is None:
        return [own]
    if isinstance(batch_sizes, int) or not batch_sizes:
        raise ConfigError(f"batch_sizes must be a list of numbers, found {batch_sizes!r}")
    for size in batch_sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"batch_sizes must hold whole numbers from 1 on, found {size!r}")
    if not own:
        raise ConfigError("batch_sizes needs inputs whose first tensor has a sample at least along its first axis")
    return list(dict.fromkeys(batch_sizes))
