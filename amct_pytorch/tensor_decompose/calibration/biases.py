"""The biases that calibration may correct, and which layers may get one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..methods.weight_group import WeightGroup
from ..model.spec import LayerModule


def correctable_biases(model: nn.Module, group: WeightGroup, *, add: bool) -> tuple[int | None, ...]:
    """For each layer of a group a number for its bias, the same for the same bias; None where it must stay as it is.

    It must where something outside the group holds it too, and where it has hooks. A layer that has none has one
    of zeros, if such may be added.
    """
    inside = set(group.modules)
    numbers: dict[int, int] = {}
    taken: list[int | None] = []
    elsewhere = {
        id(parameter)
        for module in model.modules()
        for key, parameter in module._parameters.items()
        if parameter is not None and not (module in inside and key == "bias")
    }
    for module in group.modules:
        bias = module._parameters.get("bias")
        if bias is None:
            number = numbers.setdefault(id(module), len(numbers)) if add else None
        elif id(bias) in elsewhere or bias._backward_hooks or getattr(bias, "_post_accumulate_grad_hooks", None):
            number = None
        else:
            number = numbers.setdefault(id(bias), len(numbers))
        taken.append(number)
    return tuple(taken)


def bias_of(module: LayerModule) -> Tensor:
    """Its bias (out,) in float64 on the host, zeros where it has none."""
    if module.bias is None:
        return torch.zeros(len(module.weight), dtype=torch.float64, device="cpu")
    return module.bias.detach().cpu().double()
