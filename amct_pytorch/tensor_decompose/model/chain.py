"""The layer that stands in for a decomposed Conv2d."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from ...errors import LayerError
from .compose import composed_weight
from .spec import Axes, LayerSpec, spec_of


@dataclass(frozen=True)
class Split:
    """How a layer was split: what the information file says of it.

    Attributes
    ----------
    layer
        Geometry of the layer before.
    method
        Name of the decomposition method.
    ranks
        At which it was split.
    stages
        Geometry of the layers that replace it, in order.
    added_bias
        Whether the last of them has a bias although the layer had none.
    """

    layer: LayerSpec
    method: str
    ranks: tuple[int, ...]
    stages: tuple[LayerSpec, ...]
    added_bias: bool = False


class DecomposedConv2d(nn.Sequential):
    """A chain of convolutions that stands in for one `torch.nn.Conv2d`.

    A plain Sequential in what it computes and in its state dict. For code that reads the attributes of the
    convolution it replaced, it answers with those of the whole: geometry, ``bias``, and ``weight``, the
    kernel (out, in, kh, kw) that the chain amounts to, composed anew at every reading. Gradients flow
    through ``weight`` into the chain's own weights, but writing into it changes nothing.
    """

    # How it was made; None for a part of a chain (chain[:1]). Private, as the user's attributes of the layer move here.
    # Not annotated, as TorchScript reads the annotations of a class.
    _decomposition = cast("Split | None", None)

    # TorchScript would compile every property; none is part of the forward pass.
    __jit_unused_properties__ = [  # noqa: RUF012  # TorchScript reads it from the class
        "added_bias",
        "ranks",
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
    def added_bias(self) -> bool:
        """Whether the chain has a bias that the convolution had not."""
        return self._decomposition is not None and self._decomposition.added_bias

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that the convolution was split at; none for a part of a chain."""
        return () if self._decomposition is None else self._decomposition.ranks

    @property
    def stages(self) -> tuple[LayerSpec, ...]:
        """Geometry of each convolution in the chain, as it is now.

        Raises
        ------
        LayerError
            The chain was changed: something in it is no convolution.
        """
        for stage in self:
            if not isinstance(stage, nn.Conv2d):
                raise LayerError(f"expected a chain of Conv2d as it was made, found {type(stage).__name__} in it")
        return tuple(spec_of(stage) for stage in self)

    @property
    def spec(self) -> LayerSpec:
        """Geometry of the convolution that this chain replaced.

        Raises
        ------
        LayerError
            This is a part of a chain, or something in it is no convolution.
        """
        last = self.stages[-1]
        if self._decomposition is None:
            raise LayerError("this is a part of a decomposed layer, which stands in for no convolution by itself")
        return dataclasses.replace(self._decomposition.layer, bias=last.bias and not self.added_bias)

    def split_as_it_is(self) -> Split | None:
        """How the chain was made, if its convolutions still have the geometry that they were made with; else None."""
        try:
            stages, spec = self.stages, self.spec
        except LayerError:
            return None
        split = dataclasses.replace(cast(Split, self._decomposition), layer=spec)
        made = (*split.stages[:-1], dataclasses.replace(split.stages[-1], bias=stages[-1].bias))
        return dataclasses.replace(split, stages=made) if made == stages else None

    @property
    def weight(self) -> torch.Tensor:
        """The composed kernel (out, in / groups, kh, kw)."""
        weights = [cast(nn.Conv2d, stage).weight for stage in self]
        device = weights[0].device.type
        # A weight keeps its own dtype in autocast too; the meta device, say, knows no autocast.
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return composed_weight(weights, self.stages, self.groups)
        return composed_weight(weights, self.stages, self.groups)

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias of the chain: a view of that of its last convolution, which owns the Parameter."""
        bias = cast(nn.Conv2d, self[-1]).bias
        return None if bias is None else bias.view_as(bias)

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
