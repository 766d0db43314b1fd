"""The network that is attacked, and all of the state that an attack must not change."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amct_pytorch.tensor_decompose import Calibration

_HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]


class Net(nn.Module):
    """Layers to decompose: with and without a bias, tied, under two names; and some to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.first = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.second = nn.Conv2d(64, 64, 3, padding=1)
        self.tied = nn.Conv2d(64, 64, 3, padding=1)
        self.tied.weight = self.second.weight
        self.again = self.first
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(64, 10)
        self.calls = 0
        self.seen: list[int] = []
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, h, w); counts its calls, as some networks do."""
        self.calls += 1
        self.seen.append(len(x))
        x = self.norm(self.first(self.stem(x).relu())).relu()
        x = self.tied(self.second(x).relu()).relu()
        x = self.drop(self.again(x).mean((2, 3)))
        self.mean = x.detach().mean(0)
        out: Tensor = self.head(x)
        return out


def new_net(seed: int = 0) -> Net:
    """A network with the weights of a seed, in training mode; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net()


def images(count: int = 2, seed: int = 0) -> Tensor:
    """Random images that the network takes."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def calibration(mode: Any = "whiten") -> Calibration:
    """A few batches of them, to calibrate with."""
    return Calibration([images(8, seed) for seed in range(3)], mode=mode)


def bits(state: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The values of a state dict, to compare to the last bit."""
    return {
        name: (
            str(value.dtype),
            tuple(value.shape),
            value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, value in state.items()
    }


def state_of(model: nn.Module) -> dict[str, object]:
    """Everything of a model that may be compared: modules, flags, hooks, attributes, identities and values."""
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        "modules": {name: (id(module), type(module), module.training) for name, module in modules.items()},
        "hooks": {name: [len(vars(module)[kind]) for kind in _HOOKS] for name, module in modules.items()},
        "attributes": {
            name: {key: repr(value) for key, value in vars(module).items() if not key.startswith("_")}
            for name, module in modules.items()
        },
        "overridden": {name: "forward" in vars(module) for name, module in modules.items()},
        "parameters": {name: (id(value), value.requires_grad, id(value.grad)) for name, value in parameters.items()},
        "values": bits(model.state_dict()),
    }


def world() -> dict[str, object]:
    """The random generators, and the settings of the whole process."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False)["state"]["key"].tobytes(),  # noqa: NPY002  # it is global
        "torch": torch.get_rng_state().numpy().tobytes(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "autocast": torch.is_autocast_enabled("cpu"),
        "interrupts": signal.getsignal(signal.SIGINT),
        "folder": os.getcwd(),  # noqa: PTH109  # as the system has it
    }


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """What of two states or worlds differs, in words."""
    return [key for key in before if before[key] != after[key]]
