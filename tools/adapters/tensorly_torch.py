"""tensorly-torch: each convolution becomes a `FactorizedConv`, at one rank for all, a share of the parameters."""

from __future__ import annotations

import copy

from torch import nn

from .task import Task, largest_within, replace


def tucker(task: Task) -> nn.Module:
    """Tucker factorisation whose spatial axes stay whole, computed in factorised form."""
    return _factorised(task, factorization="tucker", fixed_rank_modes="spatial")


def cp(task: Task) -> nn.Module:
    """CP factorisation, computed in factorised form."""
    return _factorised(task, factorization="cp")


def _factorised(task: Task, **kind: str) -> nn.Module:
    from tltorch import FactorizedConv

    def network(rank: float, with_weights: bool) -> nn.Module:
        found = copy.deepcopy(task.network)
        for name, layer in task.convolutions():
            if layer.stride[0] == layer.stride[1]:  # it takes the first for both
                factorised = FactorizedConv.from_conv(
                    layer, rank=rank, implementation="factorized", decompose_weights=with_weights, **kind
                )
                replace(found, name, factorised)
        return found.eval()

    rank = largest_within(lambda rank: task.macs(network(rank, with_weights=False)), task.share)
    return network(rank, with_weights=True)
