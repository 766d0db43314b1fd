"""What the measurements of one benchmark have in common: where and how they are made."""

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
    """Where and how the measurements in one type are made.

    Attributes
    ----------
    backend, device, dtype
        What they run on, and in.
    compiled
        Whether compiled models are measured too.
    steps
        Counts what was measured.
    fallbacks
        Operators seen to run on the CPU so far, as keys in the order in which they were seen.
    """

    backend: Backend
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    steps: Steps
    fallbacks: dict[str, None]

    def compare(self, before: Callable[[], object], after: Callable[[], object], name: str) -> Comparison:
        """Time two calls in turn, and count that as a step of this name."""
        comparison = compare(before, after, backend=self.backend, device=self.device)
        self.steps.done(name)
        return comparison

    def compiled_pair(self, before: nn.Module, after: nn.Module) -> tuple[Callable[..., object], Callable[..., object]]:
        """Both modules compiled for the device."""
        # Compiled code is kept by the code of the module's class, of which only so many forms are compiled: those of
        # the layers before must not count.
        torch.compiler.reset()
        return self.backend.compile(before), self.backend.compile(after)
