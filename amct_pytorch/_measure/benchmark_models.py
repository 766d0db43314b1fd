"""Both models of a benchmark on the device, with their decomposed layers and what reaches them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .._report.units import name_of
from .._run.inputs import call_with, run_model
from .._run.intercept import watched
from .._run.placement import placed_inputs, placed_model
from ..errors import DeviceError
from ..tensor_decompose.model.spec import spec_of
from .benchmark_setting import Setting
from .layer_inputs import blank_like, inputs_like, without_hooks
from .pairing import Pair, pairs_of

Calls = tuple[Callable[[], object], Callable[[], object]]
"""Calls of an original and of its decomposed form, which queue work on the device."""


@dataclass(frozen=True)
class PlacedModels:
    """Copies of both models and of the inputs on a device.

    Attributes
    ----------
    before, after
        The original and the decomposed model.
    arguments
        The inputs.
    pairs
        Their decomposed layers.
    arrivals
        For each decomposed layer of the original its inputs in one forward pass, as tensors on the meta device.
    """

    before: nn.Module
    after: nn.Module
    arguments: Any
    pairs: list[Pair]
    arrivals: dict[nn.Module, list[torch.Tensor]]

    def calls(self, setting: Setting, compiled: bool) -> Calls:
        """Forward passes of the two models.

        Parameters
        ----------
        setting
            Where to run them.
        compiled
            Whether to compile them; that happens, and may fail, at their first call.
        """
        before, after = setting.compiled_pair(self.before, self.after) if compiled else (self.before, self.after)
        return lambda: call_with(before, self.arguments), lambda: call_with(after, self.arguments)

    def layer_calls(self, pair: Pair, setting: Setting, compiled: bool) -> Calls:
        """All calls of one layer, and of its chain, in a forward pass, on random values of the shapes that reach it.

        Parameters
        ----------
        pair
            One of ``pairs``.
        setting, compiled
            See `calls`.
        """
        images = inputs_like(self.arrivals[pair.original], setting.device)
        bare = without_hooks(pair.original), without_hooks(pair.decomposed)
        layers: tuple[Callable[..., object], Callable[..., object]] = bare
        if compiled:
            layers = setting.compiled_pair(*bare)
        return _on_all(layers[0], images), _on_all(layers[1], images)

    def alike(self, pair: Pair) -> object:
        """A key that is equal for layers of equal geometry, equal chains and inputs of equal shapes.

        Parameters
        ----------
        pair
            One of ``pairs``.
        """
        kinds = Counter((tuple(blank.shape), blank.stride(), blank.dtype) for blank in self.arrivals[pair.original])
        return spec_of(pair.original), pair.decomposed.stages, tuple(kinds.items())


def placed_models(original: nn.Module, decomposed: nn.Module, inputs: Any, setting: Setting) -> PlacedModels:
    """Copy both models and the inputs to the device, and run each model once.

    The operators that ran on the CPU meanwhile are added to the setting's.

    Parameters
    ----------
    original, decomposed
        The two models, on any device.
    inputs
        The inputs, on any device.
    setting
        Where to run them.

    Raises
    ------
    InputsError
        A model fails on the inputs.
    DeviceError
        A model cannot be copied or moved.
    """
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
    return PlacedModels(before, after, arguments, pairs, arrivals)


@contextlib.contextmanager
def compile_errors_named(device: torch.device) -> Iterator[None]:
    """Turn an error of a block that runs compiled models into a `DeviceError` that says what to do.

    Parameters
    ----------
    device
        The device that they are compiled for.
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


def _on_all(layer: Callable[..., object], images: Sequence[torch.Tensor]) -> Callable[[], object]:
    def call() -> None:
        for image in images:
            layer(image)

    return call
