"""The setting that all measurements of one benchmark in one type share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from .._run.progress import Steps
from ..backend import Backend
from .timing import Comparison, compare


@dataclass(frozen=True)
class Setting:
    """Where and how to measure in one floating-point type.

    Attributes
    ----------
    backend, device
        The backend, and its device to measure on.
    dtype
        The type of weights and inputs.
    compiled
        Whether compiled models are measured too.
    steps
        Reports progress, one step a measurement.
    fallbacks
        Operators that ran on the CPU so far, as keys in the order in which they were seen.
    """

    backend: Backend
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    steps: Steps
    fallbacks: dict[str, None]

    def compare(self, before: Callable[[], object], after: Callable[[], object], name: str) -> Comparison:
        """Time two calls in turn, and report that as a step.

        Parameters
        ----------
        before, after
            Calls that queue work on the device.
        name
            Name of the step: a layer, or the whole model.
        """
        comparison = compare(before, after, backend=self.backend, device=self.device)
        self.steps.done(name)
        return comparison

    def compiled_pair(self, before: nn.Module, after: nn.Module) -> tuple[Callable[..., object], Callable[..., object]]:
        """Both modules compiled for the device.

        Parameters
        ----------
        before, after
            A model or layer on the device, and its decomposed form.
        """
        # torch.compile caches compiled code by the forward of the module's class, and stops compiling at a limit of
        # entries. Earlier layers must not use up that limit.
        torch.compiler.reset()
        return self.backend.compile(before), self.backend.compile(after)
