"""The weight and the bias of a chain: read as those of the layer that it stands in for, and written like those."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ...errors import LayerError, quoted
from .channel_scaling import channel_factors
from .compose import composed_weight
from .spec import Axes, LayerModule, LayerSpec
from .split import Split
from .uncomposed import uncomposed
from .write_through import Origin, can_be_written, was_read_from, written_through


class ReadAsOne(nn.Sequential):
    """Layers one after the other, with the weight and the bias of the one layer that computes the same.

    Weight and bias can also be written, by assignment or in place. What scales the output channels, as folding a
    BatchNorm does, goes into the last layer. Any other change of the weight raises `LayerError`, and weights and bias
    are what they were before.
    """

    # How it was made; None for a part of a chain (chain[:1]). Private, as the user's attributes of the layer move here.
    # Not annotated, as TorchScript reads the annotations of a class.
    _decomposition = cast("Split | None", None)
    # First name of the layer in the model, for messages.
    _name = cast("str | None", None)
    # Where the bias was written since the chain last ran, that before it and its values: to undo half a fold.
    _settled_bias = cast("tuple[nn.Parameter | None, torch.Tensor | None] | None", None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # as torch.nn.Sequential names it
        """Run the layers one after the other."""
        if not torch._jit_internal.is_scripting() and not torch.compiler.is_compiling():
            vars(self).pop("_settled_bias", None)
        for stage in self:
            input = stage(input)  # noqa: A001
        return input

    @property
    def stages(self) -> tuple[LayerSpec, ...]:
        """Geometry of each layer in the chain, as it is now."""
        raise NotImplementedError

    @property
    def spec(self) -> LayerSpec:
        """Geometry of the layer that this chain replaced."""
        raise NotImplementedError

    @property
    def weight(self) -> torch.Tensor:
        """The composed kernel (out, in / groups, *kernel), contiguous, through which the chain can be written.

        Where no gradients are recorded it is composed when its values are first used.
        """
        parameters = self._weights()
        records = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
        if records or not all(can_be_written(parameter.detach()) for parameter in parameters):
            return self._composed_to_be_written()
        return uncomposed(parameters[0], self.spec.weight_shape, self._composed_to_be_written)

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
        """The bias of the chain: a view of that of its last layer, which owns the Parameter."""
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
            self._check_alike("bias", value, (len(last.weight),))
        self._remember_bias(None if last.bias is None else last.bias.detach().clone())
        last.register_parameter("bias", value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As in `torch.nn.Module`, where the weight and the bias are those of the whole."""
        if name in ("weight", "bias"):
            object.__setattr__(self, name, param)
        else:
            super().register_parameter(name, param)

    def _last(self) -> LayerModule:
        return cast(LayerModule, self[-1])

    def _weights(self) -> list[nn.Parameter]:
        return [cast(nn.Parameter, stage.weight) for stage in self]

    def _composed_to_be_written(self) -> torch.Tensor:
        composed = self._composed()
        if not can_be_written(composed):
            return composed
        parameters = self._weights()
        write = functools.partial(self._write_weight_in_place, read_at=_versions(parameters))
        return written_through(composed, Origin(write, parameters))

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
                return composed_weight(weights, self.stages, self.spec.groups).contiguous()
        return composed_weight(weights, self.stages, self.spec.groups).contiguous()

    def _factors_to(self, weight: torch.Tensor) -> torch.Tensor:
        """The factors (out, 1, …) by which the last layer has to be scaled to get this weight."""
        try:
            kernel = self._composed()
            self._check_alike("weight", weight, tuple(kernel.shape))
            factors = None if kernel.is_meta else channel_factors(weight, kernel)
            if factors is None:
                raise LayerError(
                    f"{self._described()}: expected a weight that scales its output channels, as folding a BatchNorm "
                    "does, found another, which the layers that it is decomposed into cannot take over: nothing "
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
        geometry = "" if self._decomposition is None else f"{self.spec.kind} {self.spec}, "
        return f"the layer {'' if self._name is None else f'{quoted(self._name)} '}({geometry}decomposed)"


def _versions(parameters: Sequence[nn.Parameter]) -> list[tuple[int, int]]:
    """What changes when one of the parameters is replaced, or written in place."""
    return [(id(item), 0 if item.is_inference() else item._version) for item in parameters]
