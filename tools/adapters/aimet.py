"""AIMET (aimet-torch): spatial SVD, ratios of the layers by its greedy search over evaluations of the network."""

from __future__ import annotations

from decimal import Decimal

from torch import nn

from .task import OutOfReach, Task
from real_networks import import_vision


def spatial_svd(task: Task) -> nn.Module:
    """AIMET's automatic mode with its ten candidates a layer; evaluated is the error of the outputs on the inputs."""
    import_vision()  # which it needs
    from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
    from aimet_torch.compress import ModelCompressor
    from aimet_torch.defs import SpatialSvdParameters

    target = share_of_its_macs(task)
    expected = task.outputs(task.network)

    def evaluate(network: nn.Module, iterations: int | None, use_cuda: bool = False) -> float:
        return float(1 / (1 + (task.outputs(network) - expected).norm() / expected.norm()))

    greedy = GreedySelectionParameters(target_comp_ratio=Decimal(f"{target:.6f}"))
    parameters = SpatialSvdParameters(
        SpatialSvdParameters.Mode.auto, SpatialSvdParameters.AutoModeParams(greedy, _not_split(task))
    )
    compressed: nn.Module
    compressed, _ = ModelCompressor.compress_model(
        task.network,
        evaluate,
        None,  # iterations of an evaluation, which it passes on
        tuple(task.sample.shape),
        CompressionScheme.spatial_svd,
        CostMetric.mac,
        parameters,
    )
    return compressed


def share_of_its_macs(task: Task) -> float:
    """What to ask for, so that the network ends at the share: a dense layer counts once there, wherever it runs."""
    layers = task.macs_by_layer
    counted = sum(layer.weight.numel() if isinstance(layer, nn.Linear) else macs for layer, macs in layers.items())
    target = 1 - (1 - task.share) * task.layers_macs / counted
    if target <= 0:
        raise OutOfReach(f"cannot leave {task.share:.0%} of the MACs: too much lies in dense layers")
    return target


def _not_split(task: Task) -> list[nn.Module]:
    """Layers to leave out, as it drops groups and asserts that nothing is dilated."""
    return [
        module
        for module in task.network.modules()
        if isinstance(module, nn.Conv2d) and (module.groups > 1 or module.dilation != (1, 1))
    ]
