"""What is known of a layer: its geometry, and everything that follows from that.

A `LayerSpec` describes a Linear, Conv1d, Conv2d or Conv3d. They differ by the number of spatial axes alone, so nothing
else in the library asks which of them a layer is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import quoted

Axes = tuple[int, ...]
"""One number for each spatial axis of a layer: none for Linear, two (height, width) for Conv2d."""

LayerModule = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
"""A layer that a `LayerSpec` describes."""

KINDS: tuple[type[LayerModule], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Their classes, by number of spatial axes."""

_CONVOLVE = (None, functional.conv1d, functional.conv2d, functional.conv3d)
# Where more than this share of all places of an input is read, it is first laid out by places.
_DENSE_READING = 1 / 4


@dataclass(frozen=True)
class Positions:
    """Positions in the response of a layer, as index tensors (n,) on the host.

    Attributes
    ----------
    item
        Index of each position along the batch axis.
    places
        Its index along each spatial axis.
    scale
        How many positions of the response each of these stands for.
    """

    item: Tensor
    places: tuple[Tensor, ...]
    scale: float

    def __getitem__(self, index: Tensor) -> Positions:
        """Those of them that an index (m,) names, in its order."""
        return Positions(self.item[index], tuple(place[index] for place in self.places), self.scale)


@dataclass(frozen=True)
class LayerSpec:
    """The geometry of a Linear layer or a convolution.

    Parameters
    ----------
    in_channels, out_channels
        Numbers of channels, or of features of a Linear layer.
    kernel_size
        One number for each spatial axis; empty for a Linear layer, which is a convolution without axes.
    stride, dilation
        For each axis; empty for 1 on each.
    padding
        For each axis, empty for 0 on each; or ``"same"`` or ``"valid"`` as in `torch.nn.Conv2d`.
    groups
        Number of groups of channels that are convolved each by itself.
    padding_mode
        ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
    bias
        Whether the layer has one.
    """

    in_channels: int
    out_channels: int
    kernel_size: Axes = ()
    stride: Axes = ()
    padding: Axes | str = ()
    dilation: Axes = ()
    groups: int = 1
    padding_mode: str = "zeros"
    bias: bool = False

    def __post_init__(self) -> None:
        for name, value in (("stride", 1), ("padding", 0), ("dilation", 1)):
            if getattr(self, name) == ():
                object.__setattr__(self, name, (value,) * self.axes)

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_size)

    @property
    def kind(self) -> str:
        """Name of the class in torch.nn: ``"Conv2d"``."""
        return KINDS[self.axes].__name__

    @property
    def weight_shape(self) -> Axes:
        """(out, in / groups, *kernel)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def patch_size(self) -> int:
        """Number of values that one position of the response depends on: in · kernel."""
        return self.in_channels * math.prod(self.kernel_size)

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return math.prod(self.weight_shape) + (self.out_channels if self.bias else 0)

    def output_size(self, size: Sequence[int]) -> Axes:
        """Size of the response along each axis, from that of the input."""
        if self.padding == "same":
            return tuple(size)
        padding = (0,) * self.axes if isinstance(self.padding, str) else self.padding
        return tuple(
            (length + 2 * p - d * (k - 1) - 1) // s + 1
            for length, p, d, k, s in zip(size, padding, self.dilation, self.kernel_size, self.stride, strict=True)
        )

    def macs(self, size: Sequence[int]) -> int:
        """Multiply-accumulates for one item whose axes have these sizes."""
        return math.prod(self.weight_shape) * math.prod(self.output_size(size))

    def batched(self, values: Tensor) -> Tensor:
        """Inputs or responses as (N, channels, *axes), whether they came with a batch axis, several, or none."""
        if self.axes == 0:
            return values.reshape(-1, values.shape[-1])
        return values if values.dim() == self.axes + 2 else values[None]

    def by_channel(self, values: Tensor) -> Tensor:
        """One number for each channel (channels,), shaped so that it broadcasts over inputs or responses."""
        return values.reshape(-1, *[1] * self.axes)

    def forward(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What a layer of this geometry answers to (N, in, *axes)."""
        convolve = _CONVOLVE[self.axes]
        if convolve is None:
            return functional.linear(inputs, weight, bias)
        return convolve(self.padded(inputs), weight, bias, self.stride, 0, self.dilation, self.groups)

    def padded(self, inputs: Tensor) -> Tensor:
        """The inputs (N, in, *axes) with the padding that the layer gives them."""
        if self.padding == "valid":
            return inputs
        sides: list[int] = []
        for axis in reversed(range(self.axes)):  # functional.pad begins with the last
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                sides += [total // 2, total - total // 2]
            else:
                sides += [cast(Axes, self.padding)[axis]] * 2
        if not any(sides):
            return inputs
        return functional.pad(inputs, sides, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)

    def patches(self, inputs: Tensor, where: Positions) -> Tensor:
        """What the responses at some positions depend on.

        Parameters
        ----------
        inputs
            (N, in, *axes).
        where
            n positions in the response to them.

        Returns
        -------
        Tensor
            (n, in · kernel), in the order of a weight (out, in, *kernel) that is flattened to (out, in · kernel).
        """
        seen = self.padded(inputs).movedim(1, -1)
        if len(where.item) * math.prod(self.kernel_size) > _DENSE_READING * math.prod(seen.shape[:-1]):
            seen = seen.contiguous()
        taps = torch.cartesian_prod(*(torch.arange(k, device="cpu") for k in self.kernel_size)) if self.axes else None
        index = [where.item[:, None]]
        for axis, place in enumerate(where.places):
            tap = cast(Tensor, taps).reshape(-1, self.axes)[:, axis] * self.dilation[axis]
            index.append(place[:, None] * self.stride[axis] + tap)
        values = seen[tuple(part.to(seen.device) for part in index)]
        return values.transpose(1, 2).flatten(1)

    def build(self) -> LayerModule:
        """A layer of this geometry with no storage: its parameters are on the meta device.

        Nothing is drawn from a random generator.
        """
        if self.axes == 0:
            return nn.Linear(self.in_channels, self.out_channels, bias=self.bias, device="meta")
        kind = cast(type[nn.Conv2d], KINDS[self.axes])
        return kind(
            self.in_channels,
            self.out_channels,
            self.kernel_size,  # type: ignore[arg-type]  # as many as this kind has axes
            stride=self.stride,  # type: ignore[arg-type]
            padding=self.padding,  # type: ignore[arg-type]
            dilation=self.dilation,  # type: ignore[arg-type]
            groups=self.groups,
            bias=self.bias,
            padding_mode=self.padding_mode,  # type: ignore[arg-type]  # one of the four that convolutions know
            device="meta",
        )

    def __str__(self) -> str:
        text = f"{self.in_channels}→{self.out_channels}"
        if self.axes:
            text += f", {times(self.kernel_size)}"
        if any(step != 1 for step in self.stride):
            text += f", stride {times(self.stride)}"
        return text


def responses_at(responses: Tensor, where: Positions) -> Tensor:
    """The responses (n, out) of (N, out, *axes) at some positions."""
    index = tuple(part.to(responses.device) for part in (where.item, *where.places))
    return responses.movedim(1, -1)[index]


def macs_of(stages: Sequence[LayerSpec], size: Sequence[int]) -> int:
    """Multiply-accumulates of layers one after the other, for one item whose axes have these sizes."""
    total = 0
    for stage in stages:
        total += stage.macs(size)
        size = stage.output_size(size)
    return total


def macs_over_calls(stages: Sequence[LayerSpec], calls: Sequence[Sequence[int]]) -> int:
    """Multiply-accumulates of layers one after the other, over calls with inputs of these shapes.

    Parameters
    ----------
    calls
        Shapes of the inputs: (N, in, *axes), or without the batch axis; (…, in) of a Linear layer.
    """
    axes = stages[0].axes
    total = 0
    for shape in calls:
        items = math.prod(shape[:-1]) if axes == 0 else shape[0] if len(shape) == axes + 2 else 1
        total += items * macs_of(stages, shape[len(shape) - axes :])
    return total


def spec_of(layer: LayerModule) -> LayerSpec:
    """The geometry of a Linear layer or a convolution.

    Raises
    ------
    AttributeError, TypeError, ValueError
        It is neither, or a subclass that gives the attributes another meaning.
    """
    if isinstance(layer, nn.Linear):
        return LayerSpec(layer.in_features, layer.out_features, bias=layer.bias is not None)
    axes = next(axes for axes, kind in enumerate(KINDS) if isinstance(layer, kind))
    conv = cast(nn.Conv2d, layer)
    return LayerSpec(
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel_size=_each_axis(conv.kernel_size, axes),
        stride=_each_axis(conv.stride, axes),
        padding=conv.padding if isinstance(conv.padding, str) else _each_axis(conv.padding, axes),
        dilation=_each_axis(conv.dilation, axes),
        groups=conv.groups,
        padding_mode=conv.padding_mode,
        bias=conv.bias is not None,
    )


def kinds_named(axes: Collection[int]) -> str:
    """The kinds of layers with these numbers of spatial axes, in words: ``Linear, Conv1d or Conv2d``."""
    names = [kind.__name__ for number, kind in enumerate(KINDS) if number in axes]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def common_kind(kinds: Iterable[str]) -> str:
    """The kind that all of these layers are of; empty where they are of several."""
    found = set(kinds)
    return found.pop() if len(found) == 1 else ""


def times(numbers: Sequence[int]) -> str:
    """Sizes as they are written: ``3×3``."""
    return "×".join(map(str, numbers))


def kernels_of(stages: Sequence[LayerSpec]) -> str:
    """Kernel sizes of layers in order, as they are written: ``3×1, 1×3``; of Linear layers their features."""
    return ", ".join(times(stage.kernel_size) or str(stage) for stage in stages)


def _each_axis(value: int | Sequence[int], axes: int) -> Axes:
    # One number for all axes is what the functional interface takes, so code may have set one.
    numbers = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(numbers) != axes:
        raise ValueError(f"expected {axes} numbers, found {quoted(value)}")
    return tuple(int(number) for number in numbers)
