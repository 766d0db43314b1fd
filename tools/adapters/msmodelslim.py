"""msModelSlim's `low_rank_decompose`: Tucker-2 and SVD at one share of the parameters for all layers.

Its ranks are multiples of 64 by default, which leaves networks with fewer than 128 channels alone; here they are whole
numbers, which is the better choice for accuracy.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .task import Task, largest_within


def plain(task: Task) -> nn.Module:
    """From the weights alone."""
    return _decomposed(task, datasets=None)


def data_aware(task: Task) -> nn.Module:
    """Weighed by the second moments of the channels of the inputs."""
    return _decomposed(task, datasets=[(batch,) for batch in task.batches])


def _decomposed(task: Task, datasets: Any) -> nn.Module:
    from msmodelslim.pytorch.low_rank_decompose import Decompose

    layers = {name: layer for name, layer in task.network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    convolutions = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Conv2d)}
    channels = {name: (layer.out_channels, layer.in_channels) for name, layer in convolutions.items()}
    # Its manual says to leave out the first and the last layer; grouped ones would become some that do not run.
    excluded = [next(iter(layers)), list(layers)[-1]]
    excluded += [name for name, layer in convolutions.items() if layer.groups > 1]

    def settled(share: float) -> Any:
        found = Decompose(task.network).from_ratio(share, excludes=excluded, divisor=1)
        for name, ranks in found.decompose_config.items():
            if name in channels:  # it takes one rank for both sides, also where a side has fewer channels, and fails
                found.decompose_config[name] = tuple(map(min, ranks, channels[name]))
        return found

    def macs(share: float) -> float:
        return task.macs(settled(share).decompose_network(do_decompose_weight=False))

    found: nn.Module = settled(largest_within(macs, task.share)).decompose_network(datasets=datasets)
    return found
