"""The layer that stands in for a decomposed Conv2d."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import nn

from ...errors import LayerError
from .spec import ConvSpec, Pair, spec_of


class DecomposedConv2d(nn.Sequential):
    """Convolutions in a row that replace one `torch.nn.Conv2d`.

    A plain Sequential in what it computes and in its state dict. For code that reads the attributes of the
    convolution it replaced, it answers with those of the whole: geometry, ``bias``, and ``weight``, the
    kernel (out, in, kh, kw) that the row amounts to, composed anew at every reading. Gradients flow
    through ``weight`` into the row's own weights, but writing into it changes nothing.

    Attributes
    ----------
    added_bias
        Whether the row has a bias that the convolution had not.
    """

    added_bias = False

    # TorchScript would compile every property; none is part of the forward pass.
    __jit_unused_properties__ = [  # noqa: RUF012  # TorchScript reads it from the class
        "stages",
        "spec",
        "weight",
        "bias",
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    ]

    @property
    def stages(self) -> tuple[ConvSpec, ...]:
        """Geometry of each convolution in the row.

        Raises
        ------
        LayerError
            The row was changed: something in it is no convolution.
        """
        for stage in self:
            if not isinstance(stage, nn.Conv2d):
                raise LayerError(f"expected a row of Conv2d as it was made, found {type(stage).__name__} in it")
        return tuple(spec_of(cast(nn.Conv2d, stage)) for stage in self)

    @property
    def spec(self) -> ConvSpec:
        """Geometry of the convolution that this row replaced."""
        stages = self.stages
        first, last = stages[0], stages[-1]
        padding: Pair | str = first.padding
        if not isinstance(padding, str):
            padding = _by_axis(sum, [cast(Pair, stage.padding) for stage in stages])
        return ConvSpec(
            in_channels=first.in_channels,
            out_channels=last.out_channels,
            kernel_size=_by_axis(math.prod, [stage.kernel_size for stage in stages]),
            stride=_by_axis(math.prod, [stage.stride for stage in stages]),
            padding=padding,
            dilation=_by_axis(max, [stage.dilation for stage in stages]),
            groups=first.groups,
            padding_mode=first.padding_mode,
            bias=last.bias and not self.added_bias,
        )

    @property
    def weight(self) -> torch.Tensor:
        """The composed kernel (out, in, kh, kw)."""
        weights = [cast(nn.Conv2d, stage).weight for stage in self]
        device = weights[0].device.type
        # A weight keeps its own dtype in autocast too; the meta device, say, knows no autocast.
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return functools.reduce(_compose, weights)
        return functools.reduce(_compose, weights)

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias of the last convolution, which is that of the row; a view, as the Parameter is the last one's."""
        bias = cast(nn.Conv2d, self[-1]).bias
        return None if bias is None else bias.view_as(bias)

    @property
    def in_channels(self) -> int:
        """As of `torch.nn.Conv2d`."""
        return self.spec.in_channels

    @property
    def out_channels(self) -> int:
        """As of `torch.nn.Conv2d`."""
        return self.spec.out_channels

    @property
    def kernel_size(self) -> Pair:
        """As of `torch.nn.Conv2d`."""
        return self.spec.kernel_size

    @property
    def stride(self) -> Pair:
        """As of `torch.nn.Conv2d`."""
        return self.spec.stride

    @property
    def padding(self) -> Pair | str:
        """As of `torch.nn.Conv2d`."""
        return self.spec.padding

    @property
    def dilation(self) -> Pair:
        """As of `torch.nn.Conv2d`."""
        return self.spec.dilation

    @property
    def groups(self) -> int:
        """As of `torch.nn.Conv2d`."""
        return self.spec.groups

    @property
    def padding_mode(self) -> str:
        """As of `torch.nn.Conv2d`."""
        return self.spec.padding_mode


def _by_axis(combine: Callable[[Iterable[int]], int], pairs: list[Pair]) -> Pair:
    height, width = zip(*pairs, strict=True)
    return combine(height), combine(width)


def _compose(first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Kernel of two convolutions in a row, (R, in, a, b) and (out, R, c, d), where a or c and b or d are 1."""
    kernel = torch.einsum("riab,orcd->oiacbd", first, last)
    out, in_, a, c, b, d = kernel.shape
    return kernel.reshape(out, in_, a * c, b * d)
