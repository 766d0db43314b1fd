"""Networks whose convolutions everybody knows, with random weights: for times, which do not depend on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def vgg16() -> nn.Module:
    """VGG-16's thirteen convolutions (Simonyan & Zisserman 2015, configuration D) and one linear layer."""
    layers: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return _initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)))


def resnet50() -> nn.Module:
    """ResNet-50 (He et al. 2016), strides on the 3×3 convolutions."""
    return _resnet((3, 4, 6, 3))


def resnet101() -> nn.Module:
    """ResNet-101 (He et al. 2016), strides on the 3×3 convolutions."""
    return _resnet((3, 4, 23, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"VGG-16": vgg16, "ResNet-50": resnet50, "ResNet-101": resnet101}


class _Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions around which the input is passed on."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_normalised(channels, width, 1, 1),
            nn.ReLU(inplace=True),
            *_normalised(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *_normalised(width, 4 * width, 1, 1),
        )
        same = stride == 1 and channels == 4 * width
        self.shortcut = nn.Sequential() if same else nn.Sequential(*_normalised(channels, 4 * width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _normalised(channels: int, width: int, side: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, side, stride=stride, padding=side // 2, bias=False)
    return [conv, nn.BatchNorm2d(width)]


def _resnet(blocks: Sequence[int]) -> nn.Module:
    layers = [*_normalised(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)]
    channels = 64
    for stage, count in enumerate(blocks):
        for number in range(count):
            width = 64 * 2**stage
            layers.append(_Bottleneck(channels, width, stride=2 if stage and not number else 1))
            channels = 4 * width
    return _initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)))


def _initialised(network: nn.Module) -> nn.Module:
    """Weights under which responses keep their size from layer to layer, in half precision too."""
    draw = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()), generator=draw)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, _Bottleneck):
            nn.init.constant_(module.body[-1].weight, 0.2)  # type: ignore[arg-type]  # a BatchNorm2d
    return network.eval()
