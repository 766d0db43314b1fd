"""Base of the backends whose torch module has the interface of torch.cuda."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from amct_pytorch.backend import Backend, PeakMemory


class AcceleratorBackend(Backend):
    """Times by events on the device's clock, and memory by the statistics of its caching allocator."""

    @property
    def module(self) -> Any:
        """The torch module of the device type, such as torch.cuda or torch.npu."""
        return getattr(torch, self.name)

    def synchronize(self, device: torch.device) -> None:
        """Wait for all streams of the device."""
        self.module.synchronize(device)

    def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
        """Mean seconds per call, between two events of the current stream."""
        with self.module.device(device):
            begin, end = self.module.Event(enable_timing=True), self.module.Event(enable_timing=True)
            self.module.synchronize(device)
            begin.record()
            for _ in range(calls):
                fn()
            end.record()
            # Waits for work on other streams too.
            self.module.synchronize(device)
            milliseconds: float = begin.elapsed_time(end)
        return milliseconds / 1e3 / calls

    @contextlib.contextmanager
    def peak_memory(self, device: torch.device) -> Iterator[PeakMemory]:
        """Measure the memory that the caching allocator hands out, including workspaces of operators."""
        peak = PeakMemory()
        self.module.synchronize(device)
        self.module.reset_peak_memory_stats(device)
        before = self.module.memory_allocated(device)
        yield peak
        self.module.synchronize(device)
        peak.bytes = max(self.module.max_memory_allocated(device) - before, 0)

    def release_memory(self, device: torch.device) -> None:
        """Free the unused memory that the caching allocator has reserved."""
        with self.module.device(device):
            self.module.empty_cache()
