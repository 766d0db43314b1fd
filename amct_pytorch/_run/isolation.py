"""Run a model without side effects: training flags, module state and random generators are restored afterwards."""

from __future__ import annotations

import functools
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..errors import InputsError, listed
from .held_state import HeldState
from .interrupts import restored_after

# How long to watch generators for draws of other threads, in seconds: four times the interval at which Python switches
# between threads that compute.
_REST = 0.02
# What has no single truth when it is compared.
_ARRAYS = (np.ndarray, torch.Tensor)


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
            f"the model cannot be run without changing it: {listed(lazy)} were never run "
            "and would take their shapes from the inputs: run the model once, then decompose it"
        )
    put_back = putting_back(model)
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
        put_back()

    return restored_after(change, restore)


def putting_back(model: nn.Module) -> Callable[[], None]:
    """A function that puts the state of a model's modules and the generators back to what they are now.

    Within a block that leaves no trace, it gives each of several runs the same state to begin with.
    """
    generators = _HeldGenerators(tensor.device for tensor in itertools.chain(model.parameters(), model.buffers()))
    held = HeldState(model)

    def put_back() -> None:
        try:
            held.put_back()
        finally:
            generators.put_back()

    return put_back


def untouched_generators(devices: Iterable[torch.device]) -> AbstractContextManager[None]:
    """Restore the state of the random generators of Python, NumPy and torch when a block ends.

    All threads of the process share these generators, and none of them says who drew. One that did not change is left
    alone, so that it takes no harm from a thread that draws at that moment. Where one did change and there are other
    threads, this one rests for a moment: if the generator changes meanwhile too, another thread draws from it, whose
    numbers must not come twice, and it is left as it is. The limit: what another thread drew earlier in the block, but
    not in that moment, comes again; threads that draw should have generators of their own.

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
        self._all = [
            _Generator(random.getstate, random.setstate),
            _Generator(np.random.get_state, np.random.set_state),
            _Generator(torch.get_rng_state, torch.set_rng_state),
        ]
        # Only these devices: reading the state of an unused one would initialise it.
        for device in set(devices) - {torch.device("cpu"), torch.device("meta")}:
            module = torch.get_device_module(device)
            read, write = module.get_rng_state, module.set_rng_state
            self._all.append(_Generator(functools.partial(read, device), functools.partial(write, device=device)))
        self._states = [generator.read() for generator in self._all]

    def put_back(self) -> None:
        """Restore the generators that have changed, except those that other threads draw from now."""
        changed = [
            (generator, before, now)
            for generator, before in zip(self._all, self._states, strict=True)
            if not _are_same(now := generator.read(), before)
        ]
        if changed and threading.active_count() > 1:
            time.sleep(_REST)
            changed = [item for item in changed if _are_same(item[0].read(), item[2])]
        for generator, before, _ in changed:
            generator.write(before)


class _Generator(NamedTuple):
    """Access to the state of a generator that all threads share."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


def _are_same(state: Any, other: Any) -> bool:
    """Whether two states of a generator are: numbers, arrays and tensors, also in tuples."""
    if isinstance(state, _ARRAYS):
        return bool(np.array_equal(state, other))
    if isinstance(state, tuple) and any(isinstance(part, _ARRAYS) for part in state):
        return all(map(_are_same, state, other))
    return bool(state == other)
