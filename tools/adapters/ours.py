"""Our own ways: AMCT's rule, which is our default, and what we offer beyond it."""

from __future__ import annotations

from torch import nn

from amct_pytorch.tensor_decompose import Budget, Calibration, auto_decomposition

from .task import OutOfReach, Task


def amct(task: Task) -> nn.Module:
    """AMCT's layers, modes and ranks, to the digit; it takes no share of the MACs."""
    network, changes = auto_decomposition(task.network)
    return _changed(network, changes)


def amct_fitted(task: Task) -> nn.Module:
    """The same, with factors fitted to the inputs."""
    network, changes = auto_decomposition(task.network, calibration=Calibration(task.batches, mode="refit"))
    return _changed(network, changes)


def chosen(task: Task) -> nn.Module:
    """Layers, splits and ranks chosen together for the MACs, without data."""
    return auto_decomposition(task.network, budget=Budget(macs=task.share), example_inputs=task.sample)[0]


def chosen_and_fitted(task: Task) -> nn.Module:
    """The same, with influence on the outputs measured and factors fitted to the inputs."""
    calibration = Calibration(task.batches, mode="refit")
    budget = Budget(macs=task.share)
    return auto_decomposition(task.network, budget=budget, calibration=calibration, example_inputs=task.sample)[0]


def _changed(network: nn.Module, changes: object) -> nn.Module:
    if not changes:
        raise OutOfReach("decomposes no layer: all are 1×1, depthwise or narrow")
    return network
