"""What reaches a layer in a model: its layout, kept without memory, and random values of it on a device.

That is what the layer's forward method gets, which the user's hooks may have changed: layers run on it without them.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn


def blank_like(arrived: torch.Tensor) -> torch.Tensor:
    """A tensor on the meta device of the shape, strides and type of another one."""
    return torch.empty_strided(arrived.shape, arrived.stride(), dtype=arrived.dtype, device="meta")


def inputs_like(arrived: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Random values on a device, of the shapes, strides and types of these tensors on the meta device.

    Parameters
    ----------
    arrived
        One for each call of a layer; calls with inputs alike get the same values.
    device
        The device.
    """
    draw = torch.Generator("cpu").manual_seed(0)
    made: dict[object, torch.Tensor] = {}
    images = []
    for blank in arrived:
        kind = (blank.shape, blank.stride(), blank.dtype)
        if kind not in made:
            # Drawn and laid out on the host, as not every device supports both.
            values = torch.empty_strided(blank.shape, blank.stride(), dtype=torch.float32, device="cpu")
            made[kind] = values.normal_(generator=draw).to(device, blank.dtype)
        images.append(made[kind])
    return images


def without_hooks(layer: nn.Module) -> nn.Module:
    """The same layer, with the same parameters and modules inside, but none of its hooks."""
    bare = copy.copy(layer)
    vars(bare).update({key: OrderedDict() for key in vars(layer) if key.endswith("_hooks")})
    return bare
