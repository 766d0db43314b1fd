"""What a device backend is, and how to find the installed ones.

A backend is one class in any package, named by one entry point:

    [project.entry-points."amct_pytorch.backends"]
    npu = "amct_backends.npu:NpuBackend"

`amct_pytorch.backend_testing` has the checks that every backend must pass.
"""

from __future__ import annotations

from ._backend.contract import Backend, DeviceInfo, PeakMemory, Tolerance
from ._backend.kernels import Kernel, KernelKind
from ._backend.registry import (
    GROUP,
    BackendStatus,
    Registry,
    available_backends,
    get_backend,
    list_backends,
    refresh_backends,
)

__all__ = [
    "GROUP",
    "Backend",
    "BackendStatus",
    "DeviceInfo",
    "Kernel",
    "KernelKind",
    "PeakMemory",
    "Registry",
    "Tolerance",
    "available_backends",
    "get_backend",
    "list_backends",
    "refresh_backends",
]
