"""The tool that says how much of a network is reached, by shapes alone, agrees with the plans for it."""

from __future__ import annotations

from typing import Any

import pytest
import reach
import torch
from torch import nn

from amct_pytorch.tensor_decompose import DecompositionConfig, FixedRank, plan_decomposition

from .models import image
from further_networks import deeplab_v3, hrnet_w32, r3d_18

pytestmark = pytest.mark.slow


class _Mixed(nn.Module):
    """Layers that are reached by all settings, by some, and by none."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1),
            nn.Conv2d(64, 64, 3, padding=2, dilation=2),
            nn.Conv2d(64, 64, 3, padding=1, groups=64),
            nn.Conv2d(64, 48, 1),
            nn.Conv2d(48, 8, 3),
            nn.Flatten(),
            nn.Linear(8 * 36, 20),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def _share_by_plan(settings: DecompositionConfig) -> float:
    every_kind = plan_decomposition(_Mixed(), DecompositionConfig(method="auto"), example_inputs=image(1, 64, 8, 8))
    config = DecompositionConfig(method=settings.method, rule=settings.rule, rank=FixedRank(16))
    layers = {layer.name: layer for layer in every_kind.layers}
    reached = plan_decomposition(_Mixed(), config, example_inputs=image(1, 64, 8, 8)).layers
    macs: Any = sum(layers[layer.name].macs or 0 for layer in reached if layer.decompose)
    return macs / sum(layer.macs or 0 for layer in layers.values())


def test_a_share_is_that_of_a_plan_at_the_lowest_rank() -> None:
    network = reach.Network("tests.test_reach_tool._Mixed", {"x": (1, 64, 8, 8)})
    found = [each.share for each in reach.reaches(network)]
    assert found == pytest.approx([_share_by_plan(settings) for settings in reach.SETTINGS.values()])
    assert 0 < found[0] < found[1] < found[2] < 1


def test_the_networks_are_of_the_sizes_that_are_published() -> None:
    with torch.device("meta"):
        networks = [deeplab_v3(), hrnet_w32(), r3d_18()]
    millions = [sum(parameter.numel() for parameter in network.parameters()) / 1e6 for network in networks]
    # Those of torchvision's (the first without its auxiliary head), and of the authors' HRNetV2-W32.
    assert millions == pytest.approx([39.6, 29.5, 33.4], abs=0.05)


def test_dilated_layers_are_beyond_the_rule_of_amct() -> None:
    by_rule, separable, best = reach.reaches(reach.NETWORKS["DeepLabV3, ResNet-50"])
    assert by_rule.share < 0.1 < 0.6 < separable.share < 0.99 < best.share
    assert any("dilation" in reason for reason in by_rule.kept)
