"""Measure a model and its decomposed form in one floating-point type: times as wholes and by layer, and memory."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .._report.units import name_of
from .._run.inputs import batch_size_of, call_with, resized, run_model
from .._run.intercept import watched
from .._run.placement import memory_errors_named, placed_inputs, placed_model, ran_out_of_memory, released
from ..errors import DeviceError, quoted, warn_user
from .benchmark_report import WHOLE, BenchmarkRun, LayerBenchmark
from .benchmark_setting import Setting
from .cpu_share import LEAST_SHARE
from .layer_benchmark import blank_like, compare_layers, doubt_impossible
from .pairing import pairs_of
from .timing import Comparison


def benchmark_runs(
    size: int | None, original: nn.Module, decomposed: nn.Module, inputs: Any, setting: Setting
) -> list[BenchmarkRun]:
    """The runs at a batch size, which is halved until the batch fits into the memory of the device.

    Parameters
    ----------
    size
        Number of samples wanted; None for inputs that have none.
    original, decomposed
        The two models, on any device.
    inputs
        The user's inputs, of any batch size, on any device.
    setting
        Where and how to measure.

    Returns
    -------
    list of BenchmarkRun
        The eager run, and the compiled one if the setting asks for it.

    Raises
    ------
    InputsError
        A model fails on the inputs.
    DeviceError
        A model cannot be copied, moved or compiled, or not even one sample fits into the memory.
    """
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
    original: nn.Module, decomposed: nn.Module, inputs: Any, setting: Setting, notes: tuple[str, ...]
) -> list[BenchmarkRun]:
    """The eager run, and the compiled one if the setting asks for it."""
    backend, device, dtype = setting.backend, setting.device, setting.dtype
    before, after = (placed_model(model, backend, device, dtype) for model in (original, decomposed))
    arguments = placed_inputs(inputs, backend, device, dtype)
    pairs = pairs_of(before, after)
    arrivals: dict[nn.Module, list[torch.Tensor]] = {pair.original: [] for pair in pairs}

    def record(layer: nn.Module, arrived: torch.Tensor) -> None:
        arrivals[layer].append(blank_like(arrived))

    called = f"inputs on {device} in {name_of(dtype)}"
    with backend.fallbacks() as names:
        with watched(arrivals, record):
            run_model(before, arguments, called)
        run_model(after, arguments, called)
    setting.fallbacks.update(dict.fromkeys(names))
    memory = [_peak_memory(model, arguments, setting) for model in (before, after)]
    runs = []
    for compiled in (False, True) if setting.compiled else (False,):
        whole = setting.compiled_pair(before, after) if compiled else (before, after)
        with compile_errors_named(device) if compiled else contextlib.nullcontext():
            calls = [_call_of(model, arguments) for model in whole]
            comparison = setting.compare(calls[0], calls[1], WHOLE)
            layers = doubt_impossible(compare_layers(pairs, arrivals, setting, compiled), comparison)
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
                notes=(*notes, *_doubts(comparison, layers)),
            )
        )
    return runs


def _doubts(model: Comparison, layers: Sequence[LayerBenchmark]) -> tuple[str, ...]:
    """Why verdicts are unknown, in a line; none if all are known."""
    measured = [(WHOLE, model), *((layer.name, layer.comparison) for layer in layers if layer.comparison is not None)]
    doubted = [(name, comparison) for name, comparison in measured if comparison.doubt]
    if not doubted:
        return ()
    line = f"{len(doubted)} of {len(measured)} verdicts are unknown, as their times are not to be trusted: "
    shares = [comparison.cpu_share for _, comparison in doubted if comparison.cpu_share is not None]
    if shares and min(shares) < LEAST_SHARE:
        line += (
            f"the process got as little as {min(shares):.0%} of the CPU time that it could use, and {LEAST_SHARE:.0%} "
            "are needed. Stop other programs, raise the CPU quota of the container, or use fewer threads "
            "(torch.set_num_threads)"
        )
    else:
        line += (
            f"{quoted(doubted[0][0])} alone seems to take longer than the whole model. Measure again on a quiet machine"
        )
    return (f"{line}.",)


def _peak_memory(model: nn.Module, arguments: Any, setting: Setting) -> int:
    """Bytes at the peak of a forward pass, including the parameters and buffers of the model."""
    with setting.backend.peak_memory(setting.device) as peak:
        call_with(model, arguments)
    return peak.bytes + sum(tensor.nbytes for tensor in itertools.chain(model.parameters(), model.buffers()))


@contextlib.contextmanager
def compile_errors_named(device: torch.device) -> Iterator[None]:
    """Say of an error in the block that the models cannot be compiled, and what to do.

    Parameters
    ----------
    device
        The device that they are compiled for.

    Raises
    ------
    DeviceError
        There was an error.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DeviceError):
            raise
        raise DeviceError(
            f"the models cannot be compiled for {device} ({type(error).__name__}: {error}): "
            "leave compiled=True out, or fix what torch.compile names"
        ) from error


def _call_of(model: Callable[..., object], arguments: Any) -> Callable[[], object]:
    return lambda: call_with(model, arguments)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
