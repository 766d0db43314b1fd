"""Run a model without side effects: training flags, module state and random generators are restored afterwards."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import nn

from ..errors import InputsError
from .held_state import HeldState
from .interrupts import restored_after


def leaving_no_trace(model: nn.Module) -> AbstractContextManager[None]:
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
            f"the model cannot be run without changing it: {', '.join(lazy)} were never run "
            "and would take their shapes from the inputs: run the model once, then decompose it"
        )
    generators = _HeldGenerators(tensor.device for tensor in itertools.chain(model.parameters(), model.buffers()))
    held = HeldState(model)
    # The modules before the block, as a forward may add some. Frozen script modules have no training flag.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    gradients = torch.is_grad_enabled()

    def change() -> None:
        torch.set_grad_enabled(False)
        for module, _ in modes:
            module.training = False

    def restore() -> None:
        torch.set_grad_enabled(gradients)
        for module, mode in modes:
            module.training = mode
        try:
            held.put_back()
        finally:
            generators.put_back()

    return restored_after(change, restore)


def untouched_generators(devices: Iterable[torch.device]) -> AbstractContextManager[None]:
    """Restore the state of the random generators of Python, NumPy and torch when a block ends.

    Parameters
    ----------
    devices
        Devices whose generators are restored as well as that of the host.
    """
    generators = _HeldGenerators(devices)
    return restored_after(lambda: None, generators.put_back)


def _is_uninitialised(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params()


class _HeldGenerators:
    """The states of the generators of Python, NumPy, torch, and these devices."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._python, self._numpy, self._host = random.getstate(), np.random.get_state(), torch.get_rng_state()
        # Only these devices: reading the state of an unused one would initialise it.
        others = set(devices) - {torch.device("cpu"), torch.device("meta")}
        self._others = [(device, torch.get_device_module(device).get_rng_state(device)) for device in others]

    def put_back(self) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._host)
        for device, state in self._others:
            torch.get_device_module(device).set_rng_state(state, device)
