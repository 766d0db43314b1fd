"""Run a model and its decomposed form on a device in one floating-point type, and compare them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .._report.units import name_of
from .._run.inputs import run_model
from .._run.outputs import ErrorSum
from .._run.placement import placed_inputs, placed_model
from .._run.progress import Steps
from ..backend import Backend
from .layer_errors import LayerErrors
from .pairing import pairs_of
from .validation_report import DtypeValidation


def validation_run(
    original: nn.Module,
    decomposed: nn.Module,
    inputs: Any,
    backend: Backend,
    device: torch.device,
    dtype: torch.dtype,
    steps: Steps,
    fallbacks: dict[str, None],
) -> DtypeValidation:
    """Run both models on the device, and every decomposed layer on the input of its place in the original model.

    Parameters
    ----------
    original, decomposed
        The two models, on any device.
    inputs
        The user's inputs, on any device.
    backend, device
        The backend, and its device to run on.
    dtype
        The type to convert weights and inputs to.
    steps
        Reports progress, one step for each layer at its first call.
    fallbacks
        Operators that ran on the CPU so far, as keys in the order in which they were seen; new ones are added.

    Raises
    ------
    InputsError
        A model fails on the inputs.
    DeviceError
        A model cannot be copied or moved.
    """
    before, after = (placed_model(model, backend, device, dtype) for model in (original, decomposed))
    arguments = placed_inputs(inputs, backend, device, dtype)
    tolerance = backend.tolerance(dtype, device)
    pairs = pairs_of(before, after)
    errors: dict[nn.Module, LayerErrors] = {pair.original: LayerErrors(pair.decomposed) for pair in pairs}
    name_of_layer: dict[nn.Module, str] = {pair.original: pair.name for pair in pairs}

    def compare(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], response: torch.Tensor) -> None:
        errors[layer].add(args[0] if args else kwargs["input"], response)
        if errors[layer].calls == 1:
            steps.done(name_of_layer[layer])

    # Before the user's own hooks, which may change the response.
    handles = [pair.original.register_forward_hook(compare, prepend=True, with_kwargs=True) for pair in pairs]
    called = f"inputs on {device} in {name_of(dtype)}"
    with backend.fallbacks() as names:
        expected = run_model(before, arguments, called)
        for handle in handles:
            handle.remove()
        found = run_model(after, arguments, called)
    fallbacks.update(dict.fromkeys(names))
    outputs = ErrorSum()
    outputs.add(expected, found)
    layers = tuple(errors[pair.original].verdict(pair, tolerance, dtype) for pair in pairs)
    return DtypeValidation(
        dtype=dtype,
        tolerance=tolerance,
        settings=backend.settings(device),
        layers=layers,
        output_error=outputs.ratio,
        top1_agreement=outputs.agreement,
        fallbacks=tuple(fallbacks),
        notes=tuple(backend.cautions(device)),
    )
