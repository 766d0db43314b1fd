"""The task that all are given: a network, inputs to fit it to, and the multiply-accumulates that may be left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

_HALVINGS = 12
"""Of the interval in which a share is looked for: it is then known to 1/4096."""


class OutOfReach(Exception):
    """A peer that cannot get down to the MACs asked for."""


@dataclass(frozen=True)
class Task:
    """What is to be decomposed.

    Attributes
    ----------
    network
        In eval mode; to be changed at will.
    batches
        Inputs to fit it to, without labels.
    share
        The share of the multiply-accumulates of convolutions and dense layers that may be left.
    """

    network: nn.Module
    batches: Sequence[Tensor]
    share: float

    @property
    def sample(self) -> Tensor:
        """A single input."""
        return self.batches[0][:1]

    @functools.cached_property
    def macs_by_layer(self) -> Mapping[nn.Module, int]:
        """Multiply-accumulates of the original's convolutions and dense layers for one sample."""
        counted: dict[nn.Module, int] = {}

        def count(layer: nn.Module, _: object, found: Tensor) -> None:
            weight = cast(Tensor, layer.weight)
            channels = -1 if isinstance(layer, nn.Linear) else 1  # the axis of the outputs that they lie along
            counted[layer] = counted.get(layer, 0) + found.numel() // found.shape[channels] * weight.numel()

        layers = (one for one in self.network.modules() if isinstance(one, _LAYERS))
        hooks = [layer.register_forward_hook(count) for layer in layers]
        with torch.no_grad():
            self.network(self.sample)
        for hook in hooks:
            hook.remove()
        return counted

    @functools.cached_property
    def layers_macs(self) -> int:
        """All of these together."""
        return sum(self.macs_by_layer.values())

    @functools.cached_property
    def other_macs(self) -> int:
        """Those of everything else, such as attention, which nobody here decomposes."""
        return self._all_macs(self.network) - self.layers_macs

    def macs(self, network: nn.Module) -> float:
        """The share that a network has of the multiply-accumulates.

        All operators count, so it does not matter how a peer writes its layers; what is not a convolution or a dense
        layer in the original is taken off again.
        """
        return (self._all_macs(network) - self.other_macs) / self.layers_macs

    def _all_macs(self, network: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(self.sample)
        return int(counter.get_total_flops()) // 2

    def outputs(self, network: nn.Module) -> Tensor:
        """What a network gives for the inputs."""
        with torch.no_grad():
            return torch.cat([cast(Tensor, network(batch)) for batch in self.batches])

    def convolutions(self) -> Iterator[tuple[str, nn.Conv2d]]:
        """By name, those with a kernel to split: not 1×1, not of groups, and not the first, of the image's channels."""
        for name, module in self.network.named_modules():
            split = isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and module.groups == 1
            if split and module.in_channels > 4:  # an image has four channels at most
                yield name, module


def largest_within(macs: Callable[[float], float], limit: float) -> float:
    """The largest knob, from 0 to 1, at which the MACs stay within a limit.

    Parameters
    ----------
    macs
        From the knob, such as one share of the ranks for all layers, the share of the MACs; it must not fall.
    limit
        The share allowed.

    Raises
    ------
    OutOfReach
        Even next to no rank at all leaves more.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if macs(middle) <= limit else (low, middle)
    if low == 0:
        raise OutOfReach(
            f"leaves {macs(high):.0%} of the MACs at least: too much lies in layers that it does not split"
        )
    return low


def replace(network: nn.Module, name: str, chain: nn.Module) -> None:
    """Put a chain in the place of a layer."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, chain)
