"""AIMET (aimet-torch): spatial SVD, ratios of the layers by its greedy search over evaluations of the network."""

from __future__ import annotations

from decimal import Decimal

from torch import nn

from .task import Task
from real_networks import import_vision


def spatial_svd(task: Task) -> nn.Module:
    """AIMET's automatic mode with its ten candidates a layer; evaluated is the error of the outputs on the inputs."""
    import_vision()  # which it needs
    from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
    from aimet_torch.compress import ModelCompressor
    from aimet_torch.defs import SpatialSvdParameters

    expected = task.outputs(task.network)

    def evaluate(network: nn.Module, iterations: int | None, use_cuda: bool = False) -> float:
        return float(1 / (1 + (task.outputs(network) - expected).norm() / expected.norm()))

    greedy = GreedySelectionParameters(target_comp_ratio=Decimal(str(task.share)))
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


def _not_split(task: Task) -> list[nn.Module]:
    """Layers to leave out, as it drops groups and asserts that nothing is dilated."""
    return [
        module
        for module in task.network.modules()
        if isinstance(module, nn.Conv2d) and (module.groups > 1 or module.dilation != (1, 1))
    ]
