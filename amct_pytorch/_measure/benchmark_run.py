"""Measure a model and its decomposed form in one floating-point type: times as wholes and by layer, and memory."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

from torch import nn

from .._report.units import name_of
from .._run.inputs import batch_size_of, call_with, resized
from .._run.placement import memory_errors_named, ran_out_of_memory, released
from ..errors import quoted, warn_user
from .benchmark_models import compile_errors_named, placed_models
from .benchmark_report import WHOLE, BenchmarkRun, LayerBenchmark
from .benchmark_setting import Setting
from .cpu_share import LEAST_SHARE
from .layer_benchmark import compare_layers, doubt_impossible
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
    placed = placed_models(original, decomposed, inputs, setting)
    memory = [_peak_memory(model, placed.arguments, setting) for model in (placed.before, placed.after)]
    runs = []
    for compiled in (False, True) if setting.compiled else (False,):
        with compile_errors_named(setting.device) if compiled else contextlib.nullcontext():
            comparison = setting.compare(*placed.calls(setting, compiled), WHOLE)
            layers = doubt_impossible(compare_layers(placed, setting, compiled), comparison)
        runs.append(
            BenchmarkRun(
                dtype=setting.dtype,
                batch_size=batch_size_of(inputs),
                compiled=compiled,
                settings=setting.backend.settings(setting.device),
                layers=layers,
                model=comparison,
                parameters=_parameters(placed.before),
                parameters_after=_parameters(placed.after),
                peak_memory=None if compiled else memory[0],
                peak_memory_after=None if compiled else memory[1],
                fallbacks=tuple(setting.fallbacks),
                notes=(
                    *notes,
                    *_doubts(comparison, layers),
                    *setting.backend.cautions(setting.device, compiled=compiled),
                ),
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


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
