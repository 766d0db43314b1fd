"""Import torch_npu, or say why that fails and what to do."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from typing import Any, cast

import torch

# Explanation of a failed import of torch_npu, by a text in the message of the exception.
_IMPORT_FAILURES = [
    ("Two accelerators", "torch sees another accelerator, and torch_npu shares a process with none: install a CPU "
     "build of torch, or hide the other one (CUDA_VISIBLE_DEVICES= for GPUs)"),
    ("libascend_hal", "CANN is there, but the driver is not: install it, or mount /usr/local/Ascend/driver into the "
     "container and put its lib64/driver and lib64/common into LD_LIBRARY_PATH"),
    ("cannot open shared object", "CANN is not installed or its environment is not set: run `source "
     "/usr/local/Ascend/cann/set_env.sh` first, or before CANN 8.5 `source "
     "/usr/local/Ascend/ascend-toolkit/set_env.sh`"),
    ("undefined symbol", "torch, torch_npu and CANN do not fit each other: install versions that do"),
]  # fmt: skip

# For a release of torch, the newest torch-npu for it where that is not called the same.
_NEWEST = {"2.7.1": "2.7.1.post8", "2.8.0": "2.8.0.post4", "2.9.0": "2.9.0.post6", "2.10.0": "2.10.0.post4"}

# Releases whose torch-npu asks for torch's CPU build by name (2.11.0+cpu) on x86-64, where PyPI does not have it.
_WANT_CPU_BUILD = ("2.7.1", "2.9.0", "2.10.0", "2.11.0")

# Environment variable: unless it is 0, `import torch` imports an installed torch_npu.
_AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"


def why_not_loaded() -> str | None:
    """Import torch_npu, and return why that fails, or None. The environment variables are left as they were."""
    if "torch_npu" in sys.modules:
        return None
    if importlib.util.find_spec("torch_npu") is None:
        return f"torch_npu is not installed: {installing(_release(torch.__version__), platform.machine())}"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("torch_npu")
        if _release(version) != _release(torch.__version__):
            return (
                f"torch_npu {version} needs torch {_release(version)}, found torch {torch.__version__}. Which of the "
                "two to keep depends on CANN: to keep torch_npu, "
                f"{installing(_release(version), platform.machine(), version)}; to keep torch, "
                f"{installing(_release(torch.__version__), platform.machine())}"
            )
    environment, modules = dict(os.environ), set(sys.modules)
    try:
        importlib.import_module("torch_npu")
    except Exception as error:  # torch_npu raises ImportError, RuntimeError and plain Exception
        for module in set(sys.modules) - modules:
            if module.partition(".")[0] == "torch_npu":
                del sys.modules[module]
        _restore_environment(environment)
        message = str(error)
        why = next((text for sign, text in _IMPORT_FAILURES if sign in message), "torch_npu cannot be imported")
        return (
            f"{why} ({type(error).__name__}: {message}). To work without the NPU meanwhile, set {_AUTOLOAD}=0: "
            "otherwise `import torch` fails too"
        )
    _restore_environment(environment, only=_AUTOLOAD)
    return None


def installing(release: str, machine: str, version: str | None = None) -> str:
    """The command that installs torch and torch_npu of a release.

    Parameters
    ----------
    release
        Release of torch: "2.11.0".
    machine
        The processor's architecture: "x86_64", "aarch64".
    version
        Version of torch_npu; None for the newest that is known for this release.
    """
    npu = f"torch-npu=={version or _NEWEST.get(release, release)}"
    # torch_npu imports yaml, which some of its wheels do not ask for.
    if release in _WANT_CPU_BUILD and machine == "x86_64":
        return f"pip install torch=={release}+cpu from PyTorch's index of CPU builds, then pip install {npu} pyyaml"
    return f"pip install torch=={release} {npu} pyyaml"


def why_no_device() -> str | None:
    """Why there is no NPU that torch_npu can use, or None."""
    advice = "check `npu-smi info`, the rights on /dev/davinci*, and ASCEND_RT_VISIBLE_DEVICES"
    try:
        module = cast(Any, torch).npu
        return None if module.is_available() and module.device_count() > 0 else f"torch_npu sees no NPU: {advice}"
    except Exception as error:  # the driver raises various types
        return f"torch_npu fails to look for an NPU: {error}: {advice}"


def _restore_environment(before: dict[str, str], only: str | None = None) -> None:
    for key in set(os.environ) | set(before):
        if only is not None and key != only:
            continue
        if key in before:
            os.environ[key] = before[key]
        else:
            os.environ.pop(key, None)


def _release(version: str) -> str:
    """The release of a version: 2.13.0 of 2.13.0.post1+cpu."""
    match = re.match(r"\d+(?:\.\d+){0,2}", version)
    return match.group() if match else version
