"""Run a model without side effects: training flags, module state and random generators are restored afterwards."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from ..errors import InputsError, listed
from .held_state import HeldState


@contextlib.contextmanager
def leaving_no_trace(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode and disable gradients during a block, then restore the model and the generators.

    Parameters
    ----------
    model
        The model that the block runs.

    Raises
    ------
    InputsError
        The model has lazy layers that were never run.
    """
    lazy = [name for name, module in model.named_modules() if _is_uninitialised(module)]
    if lazy:
        raise InputsError(
            f"the model cannot be run without changing it: {listed(lazy)} were never run "
            "and would take their shapes from the inputs: run the model once, then decompose it"
        )
    devices = {tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())}
    with untouched_generators(devices), _untouched(model), torch.no_grad():
        yield


@contextlib.contextmanager
def untouched_generators(devices: Iterable[torch.device]) -> Iterator[None]:
    """Restore the state of the random generators of Python, NumPy and torch when a block ends.

    Parameters
    ----------
    devices
        Devices whose generators are restored as well as that of the host.
    """
    python, numpy_, host = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # Only these devices: reading the state of an unused one would initialise it.
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
    """Eval mode during a block; afterwards training flags and state of every module are restored."""
    held = HeldState(model)
    # The modules before the block, as a forward may add some. Frozen script modules have no training flag.
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
