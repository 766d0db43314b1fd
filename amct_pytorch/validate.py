"""Whether a device computes a decomposed model right, and what the decomposition cost."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ._measure.pairing import Pair, pairs_of
from ._measure.validation_report import DtypeValidation, LayerValidation, ValidationReport
from ._report.units import name_of, ratio_of
from ._run.inputs import check_finite, checked_inputs, run_model
from ._run.isolation import untouched_generators
from ._run.placement import (
    backend_of,
    checked_dtypes,
    memory_errors_named,
    placed_inputs,
    placed_model,
    released,
)
from ._run.progress import Report, Steps, reporting
from .backend import Backend, Tolerance
from .errors import LayerError
from .tensor_decompose.model.chain import DecomposedConv2d
from .tensor_decompose.model.spec import build_conv

__all__ = ["DtypeValidation", "LayerValidation", "ValidationReport", "validate"]

# Cosine between a kernel and its split: the square root of the share of energy that is kept, so 0.1 would be 1 %.
# That of two unrelated kernels is near 0.
_LEAST_COSINE = 0.1


def validate(
    original: nn.Module,
    decomposed: nn.Module,
    inputs: object,
    backend: str | Backend = "cpu",
    *,
    index: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    progress: bool | Report = False,
) -> ValidationReport:
    """Run a model and its decomposed form on a device, layer by layer and as wholes.

    Each decomposed layer gets the input that reaches its place in the original model. What it makes of it on the
    device is held against float64 on the host (is the device right?), and against the response of the original
    layer (what did the decomposition cost?). Settings that trade precision for speed, as TF32 and HF32, are off.

    Parameters
    ----------
    original
        The model before decomposition: a copy kept, since decomposition changes the model it is given.
    decomposed
        The decomposed model, with its weights.
    inputs
        A tensor, a tuple of arguments, or a mapping of keywords; on any device.
    backend
        A name as `list_backends` tells them, or a `Backend`.
    index
        Number of the device.
    dtypes
        Floating-point types to run in; by default that of the original's weights.
    progress
        True draws a bar; a function is called with (done, total, layer name).

    Returns
    -------
    ValidationReport
        Models, inputs, random generators and settings are as they were.

    Raises
    ------
    BackendUnavailable, ConfigError
        There is no such device, or it does not have a type.
    ModelError, LayerError
        The two are not a model and its decomposed form.
    InputsError, DeviceError
        A model fails on the inputs, cannot be moved, or the memory of the device does not suffice.
    """
    chosen = backend_of(backend)
    device = chosen.device(index)
    info = chosen.devices()[index]
    pairs = pairs_of(original, decomposed)
    _check_weights(pairs)
    types = checked_dtypes(dtypes, original, info)
    check_finite(inputs := checked_inputs(inputs, "inputs"))
    runs = []
    fallbacks: dict[str, None] = {}
    with contextlib.ExitStack() as stack:
        steps = Steps(stack.enter_context(reporting(progress, "validate")), len(types) * len(pairs))
        stack.enter_context(untouched_generators([device]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(chosen.prepared(device))
        stack.enter_context(chosen.exact_numerics(device))
        for dtype in types:
            with released(chosen, device), memory_errors_named(chosen, device, inputs):
                runs.append(_validate(original, decomposed, inputs, chosen, device, dtype, steps, fallbacks))
    return ValidationReport(info, tuple(runs))


def _validate(
    original: nn.Module,
    decomposed: nn.Module,
    inputs: Any,
    backend: Backend,
    device: torch.device,
    dtype: torch.dtype,
    steps: Steps,
    fallbacks: dict[str, None],
) -> DtypeValidation:
    before, after = (placed_model(model, backend, device, dtype) for model in (original, decomposed))
    arguments = placed_inputs(inputs, backend, device, dtype)
    tolerance = backend.tolerance(dtype, device)
    pairs = pairs_of(before, after)
    sums: dict[nn.Module, _Sums] = {pair.original: _Sums(pair.decomposed) for pair in pairs}
    name_of_layer: dict[nn.Module, str] = {pair.original: pair.name for pair in pairs}

    def compare(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], response: torch.Tensor) -> None:
        sums[layer].add(args[0] if args else kwargs["input"], response)
        if sums[layer].calls == 1:
            steps.done(name_of_layer[layer])

    # In front of the user's own hooks, which may change the response.
    handles = [pair.original.register_forward_hook(compare, prepend=True, with_kwargs=True) for pair in pairs]
    called = f"inputs on {device} in {name_of(dtype)}"
    with backend.fallbacks() as names:
        expected = run_model(before, arguments, called)
        for handle in handles:
            handle.remove()
        found = run_model(after, arguments, called)
    fallbacks.update(dict.fromkeys(names))
    error, agreement = _output_error(expected, found)
    layers = tuple(sums[pair.original].verdict(pair, tolerance, dtype) for pair in pairs)
    return DtypeValidation(dtype, tolerance, backend.settings(device), layers, error, agreement, tuple(fallbacks))


@dataclass
class _Sums:
    """Squared errors of one layer, over all its calls."""

    row: DecomposedConv2d
    calls: int = 0
    device: float = 0.0
    reference: float = 0.0
    worst: float = 0.0
    largest: float = 0.0
    lost: float = 0.0
    response: float = 0.0
    exact: nn.Sequential | None = field(default=None, repr=False)

    def add(self, arrived: torch.Tensor, response: torch.Tensor) -> None:
        """Run the row on what arrived at the original layer, on the device and on the host."""
        if self.exact is None:
            self.exact = _in_float64(self.row)
        # Past the user's hooks, which are no part of the layer.
        found = nn.Sequential.forward(self.row, arrived).cpu().double()  # type: ignore[no-untyped-call]
        exact = self.exact(arrived.cpu().double())
        original = response.cpu().double()
        self.calls += 1
        self.device += float((found - exact).square().sum())
        self.reference += float(exact.square().sum())
        self.worst = _max(self.worst, float((found - exact).abs().max()))
        self.largest = _max(self.largest, float(exact.abs().max()))
        self.lost += float((found - original).square().sum())
        self.response += float(original.square().sum())

    def verdict(self, pair: Pair, tolerance: Tolerance, dtype: torch.dtype) -> LayerValidation:
        """What the sums say."""
        error, worst = ratio_of(math.sqrt(self.device), math.sqrt(self.reference)), ratio_of(self.worst, self.largest)
        if not self.calls:
            verdict = "did not run"
        elif not math.isfinite(error) and self.largest > torch.finfo(dtype).max:
            verdict = f"wrong: its responses reach {self.largest:.1e}, more than {name_of(dtype)} can hold"
        elif not math.isfinite(error):
            verdict = "wrong: not finite"
        elif error > tolerance.norm:
            verdict = f"wrong: error {error:.1e}, expected at most {tolerance.norm:.1e}"
        elif worst > tolerance.worst:
            verdict = f"wrong: error {worst:.1e} at one place, expected at most {tolerance.worst:.1e}"
        else:
            verdict = "right"
        response = ratio_of(math.sqrt(self.lost), math.sqrt(self.response))
        return LayerValidation(pair.name, pair.mode, pair.rank, self.calls, error, worst, response, verdict)


def _in_float64(row: DecomposedConv2d) -> nn.Sequential:
    """The same convolutions on the host in float64."""
    stages = []
    for spec, stage in zip(row.stages, cast("Sequence[nn.Conv2d]", row), strict=True):
        conv = build_conv(spec)
        conv.weight = nn.Parameter(stage.weight.cpu().double())
        conv.bias = None if stage.bias is None else nn.Parameter(stage.bias.cpu().double())
        stages.append(conv)
    return nn.Sequential(*stages)


def _output_error(expected: object, found: object) -> tuple[float | None, float | None]:
    """Relative error over all floating-point outputs, and the agreement of the first that look like scores."""
    references, outputs = _tensors(expected), _tensors(found)
    if not references or [x.shape for x in references] != [x.shape for x in outputs]:
        return None, None
    lost = total = 0.0
    agreement = None
    for reference, output in zip(references, outputs, strict=True):
        lost += float((output - reference).square().sum())
        total += float(reference.square().sum())
        if agreement is None and reference.dim() == 2 and reference.shape[1] > 1 and len(reference):
            agreement = float((reference.argmax(1) == output.argmax(1)).double().mean())
    return ratio_of(math.sqrt(lost), math.sqrt(total)), agreement


def _tensors(outputs: object) -> list[torch.Tensor]:
    floating = (leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point())
    return [leaf.cpu().double() for leaf in floating]


def _check_weights(pairs: Sequence[Pair]) -> None:
    """Check that every row can be a split of the layer in its place."""
    for pair in pairs:
        original, composed = (
            weight.detach().cpu().double().flatten() for weight in (pair.original.weight, pair.decomposed.weight)
        )
        strength = float(original.norm() * composed.norm())
        cosine = ratio_of(float(original @ composed), strength)
        if strength and not cosine > _LEAST_COSINE:
            raise LayerError(
                f"layer {pair.name!r}: the weights of the decomposed layer have nothing to do with the original's "
                f"(their cosine is {cosine:.2f}): load the weights into the decomposed model, and compare it with the "
                "model that it was made from"
            )


def _max(largest: float, value: float) -> float:
    """The larger of the two; NaN if one is."""
    return value if math.isnan(value) or value > largest else largest
