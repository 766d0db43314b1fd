"""The common set-up of all tests: one thread, a fixed seed, and the same hypothesis examples in every run."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# No deadline and no complaint about slow draws: other work on the machine must not make a test fail.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def collected_fast() -> Iterator[None]:
    """Let gc.collect, which releases a device's memory, look at the test's own objects and not at all modules'."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def onnx_operators_read_once() -> Iterator[None]:
    """Let torch.onnx read its operator library once instead of at every export, which would take half of the time."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield
