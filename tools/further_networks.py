"""Networks with convolutions of other kinds than those of ResNets: dilated ones, high resolutions, three axes.

With the layers of DeepLabV3, HRNet and R3D, which no package of the extra `zoo` has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks import RESNET50, Conv, normalised, resnet_layers


def deeplab_v3() -> nn.Module:
    """DeepLabV3 on a ResNet-50 at an output stride of 8, for 21 classes (Chen et al. 2017)."""
    return _DeepLabV3()


def hrnet_w32() -> nn.Module:
    """HRNetV2-W32 for 19 classes (Wang et al. 2020, "Deep high-resolution representation learning")."""
    return _HRNet(widths=(32, 64, 128, 256), modules=(1, 4, 3))


def r3d_18() -> nn.Module:
    """R3D-18, a ResNet-18 over time and space, for 400 classes (Tran et al. 2018, "A closer look …")."""
    layers: list[nn.Module] = [
        nn.Conv3d(3, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(),
    ]
    channels = 64
    for stage in range(4):
        width = 64 * 2**stage
        layers += [_VideoBlock(channels, width, stride=2 if stage else 1), _VideoBlock(width, width)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(channels, 400))


def _activated(conv: Conv) -> nn.Sequential:
    return nn.Sequential(*normalised(conv), nn.ReLU())


class _DeepLabV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*resnet_layers(RESNET50, dilated_stages=2))
        self.branches = nn.ModuleList(
            [
                _activated(Conv(2048, 256, 1)),
                *(_activated(Conv(2048, 256, 3, dilation=rate)) for rate in (12, 24, 36)),
                nn.Sequential(nn.AdaptiveAvgPool2d(1), _activated(Conv(2048, 256, 1))),
            ]
        )
        self.head = nn.Sequential(
            _activated(Conv(5 * 256, 256, 1)), _activated(Conv(256, 256, 3)), Conv(256, 21, 1).layer(bias=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        found: Tensor = self.head(_resized_and_joined([branch(features) for branch in self.branches]))
        return found


class _HRNet(nn.Module):
    def __init__(self, widths: Sequence[int], modules: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(_activated(Conv(3, 64, 3, 2)), _activated(Conv(64, 64, 3, 2)))
        self.first_stage = nn.Sequential(*resnet_layers((4,))[4:])
        self.entries, self.stages = nn.ModuleList(), nn.ModuleList()
        channels: Sequence[int] = (256,)
        for count, repeats in enumerate(modules, 2):
            self.entries.append(_Entry(channels, widths[:count]))
            self.stages.append(nn.Sequential(*(_Exchange(widths[:count]) for _ in range(repeats))))
            channels = widths[:count]
        total = sum(widths)
        self.head = nn.Sequential(_activated(Conv(total, total, 1)), Conv(total, 19, 1).layer(bias=True))

    def forward(self, images: Tensor) -> Tensor:
        branches = [self.first_stage(self.stem(images))]
        for entry, stage in zip(self.entries, self.stages, strict=True):
            branches = stage(entry(branches))
        found: Tensor = self.head(_resized_and_joined(branches))
        return found


class _Entry(nn.Module):
    """Brings branches of some channels to these widths, and one more branch to life."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.known = nn.ModuleList(
            nn.Identity() if before == after else _activated(Conv(before, after, 3))
            for before, after in zip(channels, widths, strict=False)
        )
        self.new = _activated(Conv(channels[-1], widths[-1], 3, 2))

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        known = [layer(x) for layer, x in zip(self.known, branches, strict=True)]
        return [*known, self.new(branches[-1])]


class _Exchange(nn.Module):
    """Four residual blocks in each branch, then every branch sums up all, each brought to its resolution."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(*(_BasicBlock(width) for _ in range(4))) for width in widths)
        self.paths = nn.ModuleList(
            _path(widths, start, end) for end in range(len(widths)) for start in range(len(widths))
        )

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        branches = [block(x) for block, x in zip(self.blocks, branches, strict=True)]
        paths = iter(self.paths)
        summed = []
        for end in branches:
            arrived = [_resized(next(paths)(start), end) for start in branches]
            summed.append(torch.relu(torch.stack(arrived).sum(0)))
        return summed


def _path(widths: Sequence[int], start: int, end: int) -> nn.Module:
    if start == end:
        return nn.Identity()
    if start > end:
        return nn.Sequential(*normalised(Conv(widths[start], widths[end], 1)))
    halvings: list[nn.Module] = [_activated(Conv(widths[start], widths[start], 3, 2)) for _ in range(end - start - 1)]
    return nn.Sequential(*halvings, *normalised(Conv(widths[start], widths[end], 3, 2)))


class _BasicBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_activated(Conv(width, width, 3)), *normalised(Conv(width, width, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + x)


class _VideoBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(channels, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(),
            nn.Conv3d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm3d(width),
        )
        self.shortcut = nn.Sequential()
        if channels != width:
            self.shortcut.append(nn.Conv3d(channels, width, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm3d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return x if x.shape[2:] == like.shape[2:] else functional.interpolate(x, like.shape[2:], mode="bilinear")


def _resized_and_joined(branches: Sequence[Tensor]) -> Tensor:
    return torch.cat([_resized(x, branches[0]) for x in branches], dim=1)
