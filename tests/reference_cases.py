"""Convolutions for which AMCT's mode and rank are known (data/reference_cases.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class ReferenceCase:
    """One convolution; mode is None if AMCT keeps it."""

    seed: int
    in_channels: int
    out_channels: int
    kernel_size: list[int]
    stride: list[int]
    dilation: list[int]
    groups: int
    kind: str | list[object]
    std: float
    mode: str | None
    rank: int | None = None
    first: list[int] | None = None
    last: list[int] | None = None

    def conv(self) -> nn.Conv2d:
        """The convolution with its weight: white noise, or separable terms of geometric strength and noise."""
        conv = nn.utils.skip_init(
            nn.Conv2d, self.in_channels, self.out_channels, self.kernel_size,
            stride=self.stride, dilation=self.dilation, groups=self.groups,
        )  # fmt: skip
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(self._weight(conv.weight.shape)))
            conv.bias.zero_()
        return conv

    def _weight(self, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        if self.kind == "noise":
            return (rng.standard_normal(shape) * self.std).astype(np.float32)
        _, count, decay, noise = self.kind
        out, in_, height, width = shape
        columns = rng.standard_normal((count, in_, height))
        rows = rng.standard_normal((count, out, width))
        terms = (decay ** np.arange(count))[:, None] * columns.reshape(count, -1)
        weight = (terms.T @ rows.reshape(count, -1)).reshape(in_, height, out, width).transpose(2, 0, 1, 3)
        weight = weight / weight.std() * self.std + noise * self.std * rng.standard_normal(shape)
        return weight.astype(np.float32)


def cases() -> list[ReferenceCase]:
    """All reference cases."""
    text = (Path(__file__).parent / "data" / "reference_cases.json").read_text(encoding="utf-8")
    return [ReferenceCase(**case) for case in json.loads(text)]
