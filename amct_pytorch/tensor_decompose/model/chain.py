"""The layers that stand in for a decomposed one: a chain of smaller ones, which answers as the layer did."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

from torch import nn

from ...errors import LayerError
from .read_as_one import ReadAsOne
from .spec import Axes, LayerModule, LayerSpec, spec_of
from .split import Split

__all__ = [
    "DecomposedConv1d",
    "DecomposedConv2d",
    "DecomposedConv3d",
    "DecomposedLayer",
    "DecomposedLinear",
    "Split",
    "chain_class",
]


class DecomposedLayer(ReadAsOne):
    """A chain of layers that stands in for one of the same kind.

    A plain Sequential in what it computes and in its state dict. For code that reads the attributes of the layer it
    replaced, it answers with those of the whole: geometry, ``bias``, and ``weight``, the kernel (out, in / groups,
    *kernel) that the chain amounts to, composed anew at every reading, and where no gradients are recorded only once
    its values are used. Gradients flow through ``weight`` into the chain's own weights.

    Weight and bias can also be written, by assignment or in place. What scales the output channels, as folding a
    BatchNorm does, goes into the last layer. Any other change of the weight raises `LayerError`, and chain and bias
    are what they were before.
    """

    # Class of the layers in the chain, and of the one that it stands in for.
    # Like what follows not annotated, as TorchScript reads the annotations of a class.
    _kind = cast("type[LayerModule]", nn.Module)

    # TorchScript would compile every property; none is part of the forward pass.
    __jit_unused_properties__ = ["added_bias", "ranks", "stages", "spec", "weight", "bias"]  # noqa: RUF012

    @property
    def added_bias(self) -> bool:
        """Whether the chain has a bias that the layer had not."""
        return self._decomposition is not None and self._decomposition.added_bias

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that the layer was split at; none for a part of a chain."""
        return () if self._decomposition is None else self._decomposition.ranks

    @property
    def stages(self) -> tuple[LayerSpec, ...]:
        """Geometry of each layer in the chain, as it is now.

        Raises
        ------
        LayerError
            The chain was changed: something in it is of another kind.
        """
        for stage in self:
            if not isinstance(stage, self._kind):
                raise LayerError(
                    f"expected a chain of {self._kind.__name__} as it was made, found {type(stage).__name__} in it"
                )
        return tuple(spec_of(cast(LayerModule, stage)) for stage in self)

    @property
    def spec(self) -> LayerSpec:
        """Geometry of the layer that this chain replaced.

        Raises
        ------
        LayerError
            This is a part of a chain, or something in it is of another kind.
        """
        last = self.stages[-1]
        if self._decomposition is None:
            raise LayerError("this is a part of a decomposed layer, which stands in for none by itself")
        return dataclasses.replace(self._decomposition.layer, bias=last.bias and not self.added_bias)

    def split_as_it_is(self) -> Split | None:
        """How the chain was made, if its layers still have the geometry that they were made with; else None."""
        try:
            stages, spec = self.stages, self.spec
        except LayerError:
            return None
        split = dataclasses.replace(cast(Split, self._decomposition), layer=spec)
        made = (*split.stages[:-1], dataclasses.replace(split.stages[-1], bias=stages[-1].bias))
        return dataclasses.replace(split, stages=made) if made == stages else None


class DecomposedLinear(DecomposedLayer):
    """A chain of Linear layers that stands in for one `torch.nn.Linear`; see `DecomposedLayer`."""

    _kind = nn.Linear
    __jit_unused_properties__ = [*DecomposedLayer.__jit_unused_properties__, "in_features", "out_features"]  # noqa: RUF012

    @property
    def in_features(self) -> int:
        """See `torch.nn.Linear`."""
        return self.spec.in_channels

    @property
    def out_features(self) -> int:
        """See `torch.nn.Linear`."""
        return self.spec.out_channels


class _DecomposedConv(DecomposedLayer):
    """What convolutions have besides."""

    __jit_unused_properties__ = [  # noqa: RUF012
        *DecomposedLayer.__jit_unused_properties__,
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
        *("transposed", "output_padding", "_reversed_padding_repeated_twice"),
    ]

    @property
    def in_channels(self) -> int:
        """See `torch.nn.Conv2d`."""
        return self.spec.in_channels

    @property
    def out_channels(self) -> int:
        """See `torch.nn.Conv2d`."""
        return self.spec.out_channels

    @property
    def kernel_size(self) -> Axes:
        """See `torch.nn.Conv2d`."""
        return self.spec.kernel_size

    @property
    def stride(self) -> Axes:
        """See `torch.nn.Conv2d`."""
        return self.spec.stride

    @property
    def padding(self) -> Axes | str:
        """See `torch.nn.Conv2d`."""
        return self.spec.padding

    @property
    def dilation(self) -> Axes:
        """See `torch.nn.Conv2d`."""
        return self.spec.dilation

    @property
    def groups(self) -> int:
        """See `torch.nn.Conv2d`."""
        return self.spec.groups

    @property
    def padding_mode(self) -> str:
        """See `torch.nn.Conv2d`."""
        return self.spec.padding_mode

    @property
    def transposed(self) -> bool:
        """See `torch.nn.Conv2d`."""
        return False

    @property
    def output_padding(self) -> Axes:
        """See `torch.nn.Conv2d`."""
        return (0,) * self.spec.axes

    @property
    def _reversed_padding_repeated_twice(self) -> Sequence[int]:
        """See `torch.nn.Conv2d`: code that convolves by itself pads by it."""
        return cast(nn.Conv2d, self.spec.build())._reversed_padding_repeated_twice


class DecomposedConv1d(_DecomposedConv):
    """A chain of convolutions that stands in for one `torch.nn.Conv1d`; see `DecomposedLayer`."""

    _kind = nn.Conv1d


class DecomposedConv2d(_DecomposedConv):
    """A chain of convolutions that stands in for one `torch.nn.Conv2d`; see `DecomposedLayer`."""

    _kind = nn.Conv2d


class DecomposedConv3d(_DecomposedConv):
    """A chain of convolutions that stands in for one `torch.nn.Conv3d`; see `DecomposedLayer`."""

    _kind = nn.Conv3d


_CLASSES = (DecomposedLinear, DecomposedConv1d, DecomposedConv2d, DecomposedConv3d)


def chain_class(axes: int) -> type[DecomposedLayer]:
    """The class of the chain that stands in for a layer with this number of spatial axes."""
    return _CLASSES[axes]
