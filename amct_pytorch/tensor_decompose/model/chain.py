"""The layer that stands in for a decomposed Conv2d."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from ...errors import LayerError, quoted
from .channel_scaling import channel_factors
from .compose import composed_weight
from .spec import Axes, LayerSpec, spec_of
from .write_through import Origin, can_be_written, was_read_from, written_through


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
    through ``weight`` into the chain's own weights.

    Weight and bias can also be written, by assignment or in place. What scales the output channels, as folding a
    BatchNorm does, goes into the last convolution. Any other change of the weight raises `LayerError`, and chain and
    bias are what they were before.
    """

    # How it was made; None for a part of a chain (chain[:1]). Private, as the user's attributes of the layer move here.
    # Not annotated, as TorchScript reads the annotations of a class.
    _decomposition = cast("Split | None", None)
    # First name of the layer in the model, for messages.
    _name = cast("str | None", None)
    # Where the bias was written since the chain last ran, that before it and its values: to undo half a fold.
    _settled_bias = cast("tuple[nn.Parameter | None, torch.Tensor | None] | None", None)

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
        "transposed",
        "output_padding",
        "_reversed_padding_repeated_twice",
    ]

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # as torch.nn.Sequential names it
        """Run the convolutions one after the other."""
        if not torch._jit_internal.is_scripting() and not torch.compiler.is_compiling():
            vars(self).pop("_settled_bias", None)
        for stage in self:
            input = stage(input)  # noqa: A001
        return input

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
        """The composed kernel (out, in / groups, kh, kw), contiguous, through which the chain can be written."""
        composed = self._composed()
        if not can_be_written(composed):
            return composed
        parameters = self._weights()
        write = functools.partial(self._write_weight_in_place, read_at=_versions(parameters))
        return written_through(composed, Origin(write, parameters))

    @weight.setter
    def weight(self, value: nn.Parameter) -> None:
        if was_read_from(value, self._weights()):
            return
        self._check_parameter("weight", value)
        factors = self._factors_to(value)
        own = self._weights()[-1]
        with torch.inference_mode(False), torch.no_grad():
            # A Parameter of its own, as the old one may be that of another chain too.
            scaled = nn.Parameter(own * factors, own.requires_grad)
        vars(scaled).update(vars(own))
        self._last().weight = scaled

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias of the chain: a view of that of its last convolution, which owns the Parameter."""
        bias = cast("nn.Parameter | None", self._last().bias)
        if bias is None:
            return None
        view = bias.view_as(bias)
        if not can_be_written(view):
            return view
        write = functools.partial(self._write_bias_in_place, bias, bias.detach().clone())
        return written_through(view, Origin(write, [bias]))

    @bias.setter
    def bias(self, value: nn.Parameter | None) -> None:
        last = self._last()
        if was_read_from(value, [cast(nn.Parameter, last.bias)]):
            return
        if value is not None:
            self._check_parameter("bias", value)
            self._check_alike("bias", value, (last.out_channels,))
        self._remember_bias(None if last.bias is None else last.bias.detach().clone())
        last.register_parameter("bias", value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As in `torch.nn.Module`, where the weight and the bias are those of the whole."""
        if name in ("weight", "bias"):
            object.__setattr__(self, name, param)
        else:
            super().register_parameter(name, param)

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

    def _last(self) -> nn.Conv2d:
        return cast(nn.Conv2d, self[-1])

    def _weights(self) -> list[nn.Parameter]:
        return [cast(nn.Parameter, stage.weight) for stage in self]

    def _composed(self) -> torch.Tensor:
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            # A weight can be written there too, but what is made there keeps no record of writes.
            with torch.inference_mode(False), torch.no_grad():
                return self._composed()
        weights = self._weights()
        device = weights[0].device.type
        # A weight keeps its own dtype in autocast too; the meta device, say, knows no autocast.
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return composed_weight(weights, self.stages, self.groups).contiguous()
        return composed_weight(weights, self.stages, self.groups).contiguous()

    def _factors_to(self, weight: torch.Tensor) -> torch.Tensor:
        """The factors (out, 1, 1, 1) by which the last convolution has to be scaled to get this weight."""
        try:
            kernel = self._composed()
            self._check_alike("weight", weight, tuple(kernel.shape))
            factors = None if kernel.is_meta else channel_factors(weight, kernel)
            if factors is None:
                raise LayerError(
                    f"{self._described()}: expected a weight that scales its output channels, as folding a BatchNorm "
                    "does, found another, which the convolutions that it is decomposed into cannot take over: nothing "
                    "was changed; fuse or merge first, then decompose"
                )
        except LayerError:
            self._restore_bias()
            raise
        vars(self).pop("_settled_bias", None)
        return factors.to(kernel.dtype).to(kernel.device).reshape(-1, *[1] * (kernel.dim() - 1))

    def _write_weight_in_place(self, value: torch.Tensor, read_at: list[tuple[int, int]]) -> None:
        parameters = self._weights()
        if _versions(parameters) != read_at:
            self._restore_bias()
            raise LayerError(
                f"{self._described()}: expected a write into its weight as it is, found one into the weight as it was "
                "before it changed: read it again, then write"
            )
        factors = self._factors_to(value)
        with torch.no_grad():
            parameters[-1].mul_(factors)
        read_at[:] = _versions(parameters)

    def _write_bias_in_place(self, bias: nn.Parameter, before: torch.Tensor, value: torch.Tensor) -> None:
        if self._last().bias is bias:
            self._remember_bias(before)
        if value.data_ptr() != bias.data_ptr():  # else it is in the same memory already
            self._check_alike("bias", value, tuple(bias.shape))
            bias.data = value

    def _remember_bias(self, values: torch.Tensor | None) -> None:
        if self._settled_bias is None:
            # Not by setattr, which would register a Parameter.
            vars(self)["_settled_bias"] = (self._last().bias, values)

    def _restore_bias(self) -> None:
        if self._settled_bias is None:
            return
        bias, values = self._settled_bias
        self._last().register_parameter("bias", bias)
        if bias is not None and values is not None:
            bias.data.copy_(values)
        vars(self).pop("_settled_bias")

    def _check_parameter(self, name: str, value: object) -> None:
        if not isinstance(value, nn.Parameter):
            raise TypeError(f"{self._described()}: expected a Parameter as its {name}, found {type(value).__name__}")

    def _check_alike(self, name: str, value: torch.Tensor, shape: Axes) -> None:
        own = self._last().weight
        found = (tuple(value.shape), value.dtype, value.device)
        if found != (shape, own.dtype, own.device):
            raise LayerError(
                f"{self._described()}: expected a {name} {shape} of {own.dtype} on {own.device}, "
                f"found {found[0]} of {found[1]} on {found[2]}"
            )

    def _described(self) -> str:
        geometry = "" if self._decomposition is None else f"Conv2d {self.spec}, "
        return f"the layer {'' if self._name is None else f'{quoted(self._name)} '}({geometry}decomposed)"


def _versions(parameters: Sequence[nn.Parameter]) -> list[tuple[int, int]]:
    """What changes when one of the parameters is replaced, or written in place."""
    return [(id(item), 0 if item.is_inference() else item._version) for item in parameters]
