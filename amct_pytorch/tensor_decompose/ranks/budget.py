"""A budget of the whole model, instead of ranks for each layer."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from ..._run.arguments import check_flag, check_share, check_whole
from ...errors import ConfigError, ConfigTypeError, quoted

# What is chosen within, and what only a budget of latency takes besides.
_SHARES = ("macs", "parameters", "latency", "damage")
_HOW_TO_TIME = ("backend", "index", "dtype", "compiled", "refresh")


@dataclass(frozen=True, repr=False)
class Budget:
    """How much of the model may be left, or how much its outputs may change: exactly one of these.

    Methods, ranks, and which layers are decomposed at all are chosen together, so that the expected damage is least
    within the budget, or, with ``damage``, so that as much as possible is saved. One of MACs or parameters is exceeded
    only where calibration in mode reconstruct or refine finds that no input reaches a layer any more once those before
    it are decomposed: such a layer is kept, with a warning.

    Parameters
    ----------
    macs
        Multiply-accumulates after, as a share of those before: above 0, at most 1. Counted are all layers that the
        methods in use are for, kept ones too, on the example inputs, which it needs.
    parameters
        Parameters of the whole model after, as a share of those before.
    damage
        Expected relative error of the outputs: the root of the sum of the squares of the damages of all layers. That
        of a layer is, without calibration, the relative error of its weight, which says little about the outputs; with
        calibration, the relative error of the outputs that errors of its response cause, measured at two ranks.
        MACs are saved where example inputs are given, else parameters.
    latency
        Time of a run of the whole model after, as a share of that before, on the example inputs, which it needs: in
        their batch size, in eval mode, without gradients. Splits of layers are timed on the device, each in turn with
        its layer, and those that are not measurably faster are left out. The times are kept in the user's cache folder
        for this device and its settings, so that later plans take seconds. The model that is chosen is then timed as a
        whole, on a copy. Where it takes longer than expected, the times are rescaled by that and it is chosen again, up
        to three times, and a warning says so if it is still more than 2 % over the budget then. Where it is no faster
        than the original, layers are put back until it is, or all are kept: both with a warning. On a machine too busy
        to choose by times planning ends with an error that says so.
    backend
        For latency, where to measure: a name of `amct_pytorch.backend.list_backends`, or a `Backend`. By default the
        device that the model lies on.
    index
        For latency, number of the device; by default that of the model, or 0 where the model lies elsewhere.
    dtype
        For latency, floating-point type of weights and inputs; by default that of the model's weights.
    compiled
        For latency, measure the layers and models compiled (`torch.compile`; on an NPU, graph mode). Every split that
        is timed is compiled, which takes seconds each, and empties the caches of torch.compile.
    refresh
        For latency, measure again what an earlier call has measured.

    Raises
    ------
    ConfigError, ConfigTypeError
        None or several are given, or one is not above 0 and at most 1; or what only latency takes is given without it,
        or has a wrong value.
    """

    macs: float | None = None
    parameters: float | None = None
    damage: float | None = None
    latency: float | None = None
    backend: Any = field(default=None, kw_only=True)
    index: int | None = field(default=None, kw_only=True)
    dtype: torch.dtype | None = field(default=None, kw_only=True)
    compiled: bool = field(default=False, kw_only=True)
    refresh: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        given = {name: value for name in _SHARES if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            found = ", ".join(f"{name}={quoted(value)}" for name, value in given.items()) or "none"
            raise ConfigError(f"a Budget takes exactly one of macs, parameters, latency and damage, found {found}")
        for name, value in given.items():
            check_share(name, value)
        if self.latency is None and self._given_to_time:
            raise ConfigError(
                f"{self._given_to_time[0]} says how to time, which only a budget of latency does: leave it out"
            )
        if self.index is not None:
            check_whole("index", self.index, least=0)
        if self.dtype is not None and not isinstance(self.dtype, torch.dtype):
            raise ConfigTypeError(f"dtype must be a torch.dtype, found {quoted(self.dtype)}")
        check_flag("compiled", self.compiled)
        check_flag("refresh", self.refresh)

    def __str__(self) -> str:
        name, value = self.limit
        return f"{name}={value:g}"

    def __repr__(self) -> str:
        name, share = self.limit
        given = {name: share} | {name: getattr(self, name) for name in self._given_to_time}
        if "backend" in given:
            given["backend"] = getattr(self.backend, "name", self.backend)
        return f"Budget({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    @property
    def limit(self) -> tuple[str, float]:
        """Which of the four it is, and its value."""
        return next((name, value) for name in _SHARES if (value := getattr(self, name)) is not None)

    @property
    def _given_to_time(self) -> list[str]:
        """What was given of the settings that only latency takes."""
        defaults = {one.name: one.default for one in dataclasses.fields(self)}
        return [name for name in _HOW_TO_TIME if getattr(self, name) is not defaults[name]]


def most_within(share: float, total: int) -> int:
    """The largest number that is no more than this share of a total, as the quotient of the two says it."""
    most = math.floor(share * total)
    return most + 1 if (most + 1) / max(total, 1) <= share else most
