"""Running a model without leaving a trace: modes, what its modules hold, and generators are afterwards as before."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from ..errors import InputsError
from .held_state import HeldState


@contextlib.contextmanager
def leaving_no_trace(model: nn.Module) -> Iterator[None]:
    """Run a model inside: in eval mode, without gradients; afterwards it and the generators are as before.

    Raises
    ------
    InputsError
        The model holds lazy layers that were never run.
    """
    lazy = [name for name, module in model.named_modules() if _is_uninitialised(module)]
    if lazy:
        raise InputsError(
            f"the model cannot be run without changing it: {', '.join(lazy)} were never run "
            "and would take their shapes from the inputs: run the model once, then decompose it"
        )
    devices = {tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())}
    with untouched_generators(devices), _untouched(model), torch.no_grad():
        yield


@contextlib.contextmanager
def untouched_generators(devices: Iterable[torch.device]) -> Iterator[None]:
    """Give the generators of Python, NumPy, and torch on the host and these devices their state back afterwards."""
    python, numpy_, host = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # Only these devices: to ask an unused one for its state would initialise it.
    others = set(devices) - {torch.device("cpu"), torch.device("meta")}
    states = [(device, torch.get_device_module(device).get_rng_state(device)) for device in others]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)
        torch.set_rng_state(host)
        for device, state in states:
            torch.get_device_module(device).set_rng_state(state, device)


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode during the block; afterwards the mode of every module, and what it holds, as before."""
    held = HeldState(model)
    # Those of the beginning, as a forward may add modules; frozen scripts have no mode.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        held.put_back()


def _is_uninitialised(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params()
