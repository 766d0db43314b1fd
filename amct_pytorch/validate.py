"""Whether a device computes a decomposed model correctly, and how much accuracy the decomposition cost."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import nn

from ._measure.pairing import check_weights, pairs_of
from ._measure.validation_report import DtypeValidation, LayerValidation, ValidationReport
from ._measure.validation_run import validation_run
from ._run.inputs import check_finite, check_samples, checked_inputs
from ._run.interrupts import left_whole
from ._run.isolation import untouched_generators
from ._run.placement import backend_of, checked_dtypes, memory_errors_named, released
from ._run.progress import ProgressFunction, Steps, reporting
from .backend import Backend

__all__ = ["DtypeValidation", "LayerValidation", "ValidationReport", "validate"]


def validate(
    original: nn.Module,
    decomposed: nn.Module,
    inputs: object,
    backend: str | Backend = "cpu",
    *,
    index: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    progress: bool | ProgressFunction = False,
) -> ValidationReport:
    """Run a model and its decomposed form on a device, and compare them layer by layer and as wholes.

    Each decomposed layer is run on the input that reaches its place in the original model. Its response on the device
    is compared with the same layer in float64 on the host (is the device correct?), and with the response of the
    original layer (what did the decomposition cost?). Settings that trade precision for speed, such as TF32 and HF32,
    are off.

    Parameters
    ----------
    original
        The model before decomposition. Keep a copy, since decomposition changes the model it is given.
    decomposed
        The decomposed model, with its weights.
    inputs
        A tensor, a tuple of positional arguments, or a mapping of keyword arguments; on any device.
    backend
        A name of `list_backends`, or a `Backend`.
    index
        Number of the device.
    dtypes
        Floating-point types of weights and inputs; by default the type of the original's weights.
    progress
        True draws a bar; a function is called with (done, total, layer name).

    Returns
    -------
    ValidationReport
        Models, inputs, random generators and settings are left as they were.

    Raises
    ------
    BackendUnavailable
        The backend is not installed, or has no usable device here.
    ConfigError
        The device does not support a type, or an argument has a wrong value; `ConfigTypeError` for a wrong type.
    ModelError, LayerError
        The two are not a model and its decomposed form.
    InputsError
        The inputs hold no sample, or NaN or infinity, or a model fails on them.
    DeviceError
        A model cannot be copied or moved, or the device runs out of memory.
    MissingExtra
        ``progress=True``, and tqdm is not installed.
    """
    chosen = backend_of(backend)
    device = chosen.device(index)
    info = chosen.devices()[index]
    pairs = pairs_of(original, decomposed)
    check_weights(pairs)
    types = checked_dtypes(dtypes, original, info)
    check_samples(inputs := checked_inputs(inputs, "inputs"))
    check_finite(inputs)
    runs = []
    fallbacks: dict[str, None] = {}
    with contextlib.ExitStack() as stack:
        steps = Steps(stack.enter_context(reporting(progress, "validate")), len(types) * len(pairs))
        stack.enter_context(untouched_generators([device]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(left_whole(chosen.prepared(device)))
        stack.enter_context(left_whole(chosen.exact_numerics(device)))
        for dtype in types:
            with released(chosen, device), memory_errors_named(chosen, device, inputs):
                runs.append(validation_run(original, decomposed, inputs, chosen, device, dtype, steps, fallbacks))
    return ValidationReport(info, tuple(runs))
