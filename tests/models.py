"""Small networks for the tests, and helpers that inspect a model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from amct_pytorch.tensor_decompose import DecomposedConv2d


def conv(in_channels: int = 64, out_channels: int = 64, **options: object) -> nn.Conv2d:
    """A convolution that the default configuration decomposes."""
    return nn.Conv2d(in_channels, out_channels, **{"kernel_size": 3, "padding": 1, **options})  # type: ignore[arg-type]


class TwoConvs(nn.Module):
    """Two convolutions to decompose, and a first one to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.conv1 = conv()
        self.norm = nn.BatchNorm2d(64)
        self.conv2 = conv(64, 128, stride=2)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(self.stem(x).relu())).relu()
        return self.head(self.conv2(x).relu().mean((2, 3)))


IMAGE = (2, 3, 16, 16)


def image(*shape: int) -> Tensor:
    """A fixed random input, independent of the global generator."""
    return torch.randn(shape or IMAGE, generator=torch.Generator().manual_seed(7))


def snapshot(model: nn.Module) -> Callable[[], None]:
    """Remember a model's modules and values; the function returned asserts that they are what they were."""
    modules = dict(model.named_modules(remove_duplicate=False))
    state = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in modules.items()}
    hooks = {name: _hook_counts(module) for name, module in modules.items()}

    def check() -> None:
        now = dict(model.named_modules(remove_duplicate=False))
        assert list(now) == list(modules)
        assert all(now[name] is modules[name] for name in modules)
        assert {name: module.training for name, module in now.items()} == modes
        assert {name: _hook_counts(module) for name, module in now.items()} == hooks
        left = model.state_dict()
        assert left.keys() == state.keys()
        for key, value in state.items():
            assert torch.equal(left[key].nan_to_num(1e9), value.nan_to_num(1e9)), key

    return check


def _hook_counts(module: nn.Module) -> dict[str, int]:
    return {key: len(vars(module)[key]) for key in vars(nn.Module()) if key.endswith("_hooks")}


def chains(model: nn.Module) -> dict[str, DecomposedConv2d]:
    """The chains of a decomposed model, by each of their names."""
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, DecomposedConv2d)
    }


class EveryKind(nn.Module):
    """A layer of every kind, the Linear one on inputs with an axis more than it needs; answers with logits."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(3, 8, (2, 3, 3), stride=(1, 2, 1), padding=(0, 1, 2), padding_mode="circular")
        self.plane = nn.Conv2d(8, 10, 3, padding=2, dilation=2, bias=False)
        self.line = nn.Conv1d(10, 12, 5, padding="same", padding_mode="reflect")
        self.head = nn.Linear(12, 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plane(self.volume(x).relu().mean(2)).relu()
        x = self.line(x.mean(2)).relu()
        return self.head(x.transpose(1, 2)).mean(1)


VOLUME = (2, 3, 4, 6, 7)
"""Shape of its inputs."""
