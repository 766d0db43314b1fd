"""Shapes of the convolutions of well-known networks, and these networks with random weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Conv(NamedTuple):
    """Shape of a convolution with a square kernel, padded to keep the image size at stride 1."""

    in_channels: int
    out_channels: int
    side: int
    stride: int = 1
    dilation: int = 1

    def layer(self, *, bias: bool) -> nn.Conv2d:
        """The convolution, with weights as torch draws them."""
        padding = self.dilation * (self.side // 2)
        return nn.Conv2d(*self[:4], padding=padding, dilation=self.dilation, bias=bias)


Bottleneck = tuple[Conv, Conv, Conv]
"""The 1×1, 3×3 and 1×1 convolutions of a residual block."""

RESNET_STEM = Conv(3, 64, 7, stride=2)
"""The first convolution of every ResNet."""

RESNET50 = (3, 4, 6, 3)
"""Bottlenecks in each stage of ResNet-50 (He et al. 2016, table 1)."""

RESNET101 = (3, 4, 23, 3)
"""Bottlenecks in each stage of ResNet-101."""


def vgg16_stages() -> list[list[Conv]]:
    """VGG-16's thirteen convolutions (Simonyan & Zisserman 2015, configuration D); a pooling follows each stage."""
    stages = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        stages.append([Conv(channels, width, 3), *[Conv(width, width, 3)] * (count - 1)])
        channels = width
    return stages


def resnet_bottlenecks(blocks: Sequence[int], dilated_stages: int = 0) -> Iterator[Bottleneck]:
    """The bottlenecks of a ResNet in order, strides on the 3×3 convolutions.

    Parameters
    ----------
    blocks : sequence of int
        Bottlenecks in each stage.
    dilated_stages : int
        So many of the last stages keep the image size, and dilate the convolutions that follow instead.
    """
    channels, dilation = RESNET_STEM.out_channels, 1
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for number in range(count):
            halves = bool(stage) and not number
            dilates = halves and stage >= len(blocks) - dilated_stages
            stride = 2 if halves and not dilates else 1
            yield Conv(channels, width, 1), Conv(width, width, 3, stride, dilation), Conv(width, 4 * width, 1)
            channels, dilation = 4 * width, 2 * dilation if dilates else dilation


def vgg16() -> nn.Module:
    """VGG-16's convolutions and one linear layer."""
    return _initialised(nn.Sequential(*_vgg16_convolutions(), *_classifier(512)))


def vgg16_with_dense_layers() -> nn.Module:
    """VGG-16 as a whole: 103 of its 138 million weights are those of its first dense layer."""
    dense = [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True)]
    dense += [nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, 1000)]
    return _initialised(nn.Sequential(*_vgg16_convolutions(), *dense))


def resnet50() -> nn.Module:
    """ResNet-50."""
    return _resnet(RESNET50)


def resnet101() -> nn.Module:
    """ResNet-101."""
    return _resnet(RESNET101)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"VGG-16": vgg16, "ResNet-50": resnet50, "ResNet-101": resnet101}
"""How to build each network, by its name."""


def resnet50_without_shortcuts() -> nn.Sequential:
    """The convolutions of ResNet-50 one after the other, with batch normalisations and ReLUs, as torch draws them."""
    layers: list[nn.Module] = [RESNET_STEM.layer(bias=True), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]
    for bottleneck in resnet_bottlenecks(RESNET50):
        for conv in bottleneck:
            layers += [*normalised(conv), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *_classifier(2048)).eval()


class _Bottleneck(nn.Module):
    def __init__(self, first: Conv, middle: Conv, last: Conv) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *normalised(first), nn.ReLU(inplace=True), *normalised(middle), nn.ReLU(inplace=True), *normalised(last)
        )
        shortcut = Conv(first.in_channels, last.out_channels, 1, middle.stride)
        same = shortcut.stride == 1 and shortcut.in_channels == shortcut.out_channels
        self.shortcut = nn.Sequential() if same else nn.Sequential(*normalised(shortcut))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def normalised(conv: Conv) -> list[nn.Module]:
    """A convolution, and a batch normalisation behind it."""
    return [conv.layer(bias=False), nn.BatchNorm2d(conv.out_channels)]


def _vgg16_convolutions() -> list[nn.Module]:
    layers: list[nn.Module] = []
    for stage in vgg16_stages():
        for conv in stage:
            layers += [conv.layer(bias=True), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2))
    return layers


def _classifier(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]


def resnet_layers(blocks: Sequence[int], dilated_stages: int = 0) -> list[nn.Module]:
    """The stem of a ResNet, four layers, and its bottlenecks; see `resnet_bottlenecks`."""
    stem = [*normalised(RESNET_STEM), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)]
    return [*stem, *(_Bottleneck(*convs) for convs in resnet_bottlenecks(blocks, dilated_stages))]


def _resnet(blocks: Sequence[int]) -> nn.Module:
    return _initialised(nn.Sequential(*resnet_layers(blocks), *_classifier(2048)))


def _initialised(network: nn.Module) -> nn.Module:
    """Set weights under which responses keep their scale from layer to layer, within the range of half precision."""
    draw = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()), generator=draw)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, _Bottleneck):
            # Each block adds a response of a fifth of the scale, so that the sum over dozens stays in range.
            nn.init.constant_(module.body[-1].weight, 0.2)  # type: ignore[arg-type]  # a BatchNorm2d
    return network.eval()
