"""Whether a decomposed model is faster than its original on a device, as a whole and layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from ._measure.benchmark_report import BenchmarkReport, BenchmarkRun, LayerBenchmark
from ._measure.benchmark_run import benchmark_runs
from ._measure.benchmark_setting import Setting
from ._measure.kernel_profile import profiled
from ._measure.kernel_summary import KernelProfile, KernelSummary
from ._measure.pairing import pairs_of
from ._run.arguments import is_whole, setting_error
from ._run.inputs import batch_size_of, check_samples, checked_inputs
from ._run.interrupts import left_whole
from ._run.isolation import untouched_generators
from ._run.placement import backend_of, checked_dtypes
from ._run.progress import ProgressFunction, Steps, reporting
from .backend import Backend
from .errors import ConfigError, ConfigTypeError, quoted

__all__ = ["BenchmarkReport", "BenchmarkRun", "KernelProfile", "KernelSummary", "LayerBenchmark", "benchmark"]


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
    profile: bool = False,
    progress: bool | ProgressFunction = False,
) -> BenchmarkReport:
    """Time a model and its decomposed form on a device, in turn, as wholes and layer by layer.

    The two are timed in 25 pairs of groups of calls, in alternating order; each group lasts some milliseconds and
    starts with a cold cache. The speed-up is the median of the 25 ratios, with a 99 % bootstrap confidence interval.
    Pairing makes drift and interruptions of the machine affect both alike. Where the process got less than 0.8 of
    the CPU time that it could use meanwhile, or a layer alone seems to take longer than the whole model, the speed-up
    is unknown, and the report says why.

    Both run in eval mode without gradients, under the current precision settings of the process, which the report
    lists. A layer is timed on random values of the shapes that reach it; identical layers are timed once. Times do not
    depend on the weights, so a model from `decompose_network` will do.

    Parameters
    ----------
    original
        The model before decomposition. Keep a copy, since decomposition changes the model it is given.
    decomposed
        The decomposed model.
    inputs
        A tensor, a tuple of positional arguments, or a mapping of keyword arguments; on any device.
    backend
        A name of `list_backends`, or a `Backend`.
    index
        Number of the device.
    batch_sizes
        Numbers of samples per forward pass; the inputs are repeated or cut to each. By default the inputs are used as
        they are. A batch that does not fit into the memory of the device is halved until it does, with a warning.
    dtypes
        Floating-point types of weights and inputs; by default the type of the original's weights.
    compiled
        Also measure compiled models and layers (`torch.compile`; on an NPU, graph mode). This empties the caches of
        torch.compile, so models compiled earlier are recompiled at their next call.
    profile
        Also record the kernels that the device runs for each layer and model, after all have been timed: how long it
        works on convolutions, on conversions between memory formats, and so on, whether it multiplies float32 numbers
        in TF32 or HF32, and whether it waits for the host instead ("host-bound"). On cuda and npu; on an NPU torch_npu
        takes some seconds for each recording.
    progress
        True draws a bar; a function is called with (done, total, what was measured last).

    Returns
    -------
    BenchmarkReport
        Models, inputs, random generators and settings are left as they were.

    Raises
    ------
    BackendUnavailable
        The backend is not installed, or has no usable device here.
    ConfigError
        The device does not support a type, its backend records no kernels, or an argument has a wrong value;
        `ConfigTypeError` for a wrong type.
    ModelError, LayerError
        The two are not a model and its decomposed form.
    InputsError
        The inputs hold no sample, or a model fails on them.
    DeviceError
        A model cannot be copied, moved or compiled, the device runs out of memory even at one sample, or its profiler
        fails.
    MissingExtra
        ``progress=True``, and tqdm is not installed.
    """
    chosen = backend_of(backend)
    device = chosen.device(index)
    info = chosen.devices()[index]
    if not isinstance(profile, bool):
        raise ConfigTypeError(f"profile must be True or False, found {quoted(profile)}")
    if profile and not chosen.records_kernels:
        raise ConfigError(
            f"backend {quoted(chosen.name)} records no kernels: leave profile=True out, or measure on another device"
        )
    count = len(pairs_of(original, decomposed))
    types = checked_dtypes(dtypes, original, info)
    inputs = checked_inputs(inputs, "inputs")
    sizes = _checked_batch_sizes(batch_sizes, inputs)
    check_samples(inputs)
    runs: list[BenchmarkRun] = []
    fallbacks: dict[str, None] = {}
    with reporting(progress, "benchmark") as report, untouched_generators([device]), torch.no_grad():
        steps = Steps(report, len(types) * len(sizes) * (1 + compiled) * (1 + profile) * (count + 1))
        with left_whole(chosen.prepared(device)):
            for dtype, size in itertools.product(types, sizes):
                setting = Setting(chosen, device, dtype, compiled, steps, fallbacks)
                runs += benchmark_runs(size, original, decomposed, inputs, setting)
            if profile:
                runs = [
                    profiled(run, original, decomposed, inputs, Setting(chosen, device, run.dtype, False, steps, {}))
                    for run in runs
                ]
    return BenchmarkReport(info, tuple(runs))


def _checked_batch_sizes(batch_sizes: Sequence[int] | None, inputs: Any) -> list[int | None]:
    own = batch_size_of(inputs)
    if batch_sizes is None:
        return [own]
    is_list = isinstance(batch_sizes, Collection)
    if not is_list or not batch_sizes:
        raise setting_error(
            f"batch_sizes must be a list of numbers, found {quoted(batch_sizes)}", of_right_type=is_list
        )
    for size in batch_sizes:
        if not is_whole(size) or size < 1:
            raise setting_error(
                f"batch_sizes must hold whole numbers from 1 on, found {quoted(size)}", of_right_type=is_whole(size)
            )
    if not own:
        raise ConfigError("batch_sizes needs inputs whose first tensor has a sample at least along its first axis")
    return list(dict.fromkeys(batch_sizes))
