"""Profile the kernels of both models of a benchmark, as wholes and by layer, once their times are known.

A profiler that was once attached to a device can slow down every later launch, so the benchmark profiles only after it
has timed everything.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from torch import nn

from .._run.inputs import resized
from .._run.placement import memory_errors_named, released
from .benchmark_models import Calls, compile_errors_named, placed_models
from .benchmark_report import WHOLE, BenchmarkRun
from .benchmark_setting import Setting
from .kernel_summary import KernelProfile, summary_of
from .timing import Comparison

# Calls that are recorded: kernels of one shape differ by percents between calls, and records stay small.
_CALLS = 10


def profiled(
    run: BenchmarkRun, original: nn.Module, decomposed: nn.Module, inputs: Any, setting: Setting
) -> BenchmarkRun:
    """The run with the profiles of its whole models and of its layers; identical layers are profiled once.

    Parameters
    ----------
    run
        A run that was timed in this setting.
    original, decomposed
        The two models, on any device.
    inputs
        The user's inputs, of any batch size, on any device.
    setting
        Where and how the run was measured.

    Raises
    ------
    DeviceError
        The profiler fails, or the memory does not suffice.
    """
    inputs = inputs if run.batch_size is None else resized(inputs, run.batch_size)
    backend, device = setting.backend, setting.device
    with released(backend, device), memory_errors_named(backend, device, inputs):
        placed = placed_models(original, decomposed, inputs, setting)
        with compile_errors_named(device) if run.compiled else contextlib.nullcontext():
            whole = _profile(placed.calls(setting, run.compiled), run.model, setting)
            setting.steps.done(WHOLE)
            found: dict[object, KernelProfile] = {}
            layers = []
            for layer, pair in zip(run.layers, placed.pairs, strict=True):
                alike = placed.alike(pair)
                if layer.comparison is not None and alike not in found:
                    calls = placed.layer_calls(pair, setting, run.compiled)
                    found[alike] = _profile(calls, layer.comparison, setting)
                layers.append(replace(layer, profile=found.get(alike)))
                setting.steps.done(layer.name)
    return replace(run, layers=tuple(layers), profile=whole)


def _profile(calls: Calls, times: Comparison, setting: Setting) -> KernelProfile:
    before, after = (
        summary_of(setting.backend.kernels(call, device=setting.device, calls=_CALLS), _CALLS, timing.median)
        for call, timing in zip(calls, (times.before, times.after), strict=True)
    )
    return KernelProfile(before, after)
