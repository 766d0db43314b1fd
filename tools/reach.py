"""How much of a network each way to decompose it reaches.

For networks of well-known shapes, the share of the multiply-accumulates (MACs) of all their convolutions and Linear
layers that are in layers which a split makes cheaper: by AMCT's rule, by the separable split of whatever it can split,
and by whichever method fits. What stays beyond reach is then listed with the reasons.

That follows from the shapes alone. The networks are built and run on torch's meta device, which computes no values, at
their usual sizes. A layer counts as reached if its split has fewer parameters and MACs at the lowest rank of a multiple
of 16, so a share says nothing of how much a layer can lose. Transposed convolutions are not counted.

    python tools/reach.py       # needs the extra `zoo`, and takes a minute
"""

from __future__ import annotations

import argparse
import copy
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn

from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch._run.intercept import input_shapes
from amct_pytorch.tensor_decompose import DecompositionConfig
from amct_pytorch.tensor_decompose.methods.eligible import why_kept
from amct_pytorch.tensor_decompose.methods.weight_group import WeightGroup
from amct_pytorch.tensor_decompose.model.layers import Layer, survey
from amct_pytorch.tensor_decompose.model.spec import macs_over_calls

SETTINGS: dict[str, DecompositionConfig] = {
    "AMCT's rule": DecompositionConfig(),
    "separable, any": DecompositionConfig(rule="any"),
    "auto, any": DecompositionConfig(method="auto", rule="any"),
}
"""The settings that are compared, by what the tables call them."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """A network, and what it is run on.

    Parameters
    ----------
    model
        Full name of its class, or of a function that builds it. Nothing is imported before that.
    arguments
        Shapes of its inputs by argument, of random numbers or, for text, of token numbers.
    settings
        Arguments of the configuration class, or of the class itself if it has none.
    """

    model: str
    arguments: Mapping[str, Shape]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The network, with no values in its weights."""
        model = resolve_name(self.model)
        settings = copy.deepcopy(dict(self.settings))
        with torch.device("meta"):
            network: nn.Module = (
                model(model.config_class(**settings)) if hasattr(model, "config_class") else model(**settings)
            )
        return network.eval()

    def inputs(self) -> dict[str, torch.Tensor]:
        """Its inputs, with no values in them."""
        whole = ("input_ids", "timestep")
        return {
            name: torch.empty(shape, dtype=torch.int64 if name in whole else torch.float32, device="meta")
            for name, shape in self.arguments.items()
        }


_IMAGE = {"pixel_values": (1, 3, 224, 224)}
_VIDEO = {"pixel_values": (1, 16, 3, 224, 224)}

NETWORKS: dict[str, Network] = {
    "ResNet-50": Network("transformers.ResNetForImageClassification", _IMAGE),
    "MobileNetV2": Network("transformers.MobileNetV2ForImageClassification", _IMAGE),
    "DeepLabV3, ResNet-50": Network("further_networks.deeplab_v3", {"images": (1, 3, 512, 512)}),
    "HRNetV2-W32": Network("further_networks.hrnet_w32", {"images": (1, 3, 512, 1024)}),
    "ConvNeXt-T": Network("transformers.ConvNextForImageClassification", _IMAGE),
    "ViT-B/16": Network("transformers.ViTForImageClassification", _IMAGE),
    "BERT-base": Network("transformers.BertModel", {"input_ids": (1, 128)}),
    "wav2vec 2.0 base": Network("transformers.Wav2Vec2Model", {"input_values": (1, 80_000)}),
    "R3D-18": Network("further_networks.r3d_18", {"input": (1, 3, 16, 112, 112)}),
    "VideoMAE-B": Network("transformers.VideoMAEForVideoClassification", _VIDEO),
    "Stable Diffusion VAE": Network(
        "diffusers.AutoencoderKL",
        {"sample": (1, 3, 512, 512)},
        {
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
        },
    ),
    "Stable Diffusion UNet": Network(
        "diffusers.UNet2DConditionModel",
        {"sample": (1, 4, 64, 64), "timestep": (1,), "encoder_hidden_states": (1, 77, 768)},
        {"cross_attention_dim": 768},
    ),
}
"""The networks by name, at their usual sizes."""


@dataclass(frozen=True)
class Reach:
    """What some settings reach of a network.

    Attributes
    ----------
    total
        MACs of all layers.
    kept
        Those of the layers that are kept, by the reason in words.
    """

    total: int
    kept: Mapping[str, int]

    @property
    def share(self) -> float:
        """Share of the MACs that is reached."""
        return 1 - sum(self.kept.values()) / self.total


def reaches(network: Network) -> list[Reach]:
    """What each of the settings reaches of a network."""
    model = network.build()
    layers = [layer for layer in survey(model).layers if layer.spec is not None]
    calls = input_shapes(model, [layer.module for layer in layers], network.inputs())
    return [_reach(layers, calls, settings) for settings in SETTINGS.values()]


def _reach(layers: Sequence[Layer], calls: Sequence[Sequence[torch.Size]], settings: DecompositionConfig) -> Reach:
    total = 0
    kept: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for layer, seen in zip(layers, calls, strict=True):
        assert layer.spec is not None, "those without are left out"
        macs = macs_over_calls((layer.spec,), seen)
        total += macs
        reason = why_not_reached(WeightGroup((layer,), settings, (seen,)))
        if reason is not None:
            # Layers that differ by their numbers and names alone are kept for one reason.
            kept[re.sub(r"[\d,×.]+|'.*?'", "…", reason)].append((macs, reason))
    return Reach(total, {max(found)[1]: sum(macs for macs, _ in found) for found in kept.values()})


def why_not_reached(group: WeightGroup) -> str | None:
    """Why no split of a weight makes its layer cheaper, in words; None where one does."""
    (layer,) = group.layers
    reason = layer.why_not or why_kept([group.spec], group.settings)
    if reason is not None:
        return reason
    shortfalls = [
        one.shortfall([min(group.settings.rank_multiple, full) for full in one.method.full_ranks(group.spec)])
        for one in group.by_method.values()
    ]
    return None if None in shortfalls else shortfalls[0]


def main() -> None:
    """Print the shares, and the reasons for the rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, help="default all")
    arguments = parser.parse_args()
    found = {name: reaches(NETWORKS[name]) for name in arguments.networks}
    shares = Table(
        "Share of the MACs that is reached",
        (Column("network"), Column("GMACs", "number"), *(Column(name, "number") for name in SETTINGS)),
        tuple(
            (name, f"{each[0].total / 1e9:.1f}", *(f"{reach.share:.0%}" for reach in each))
            for name, each in found.items()
        ),
    )
    reasons = Table(
        "What is kept, from 1 % of the MACs on",
        (Column("network"), Column("settings"), Column("kept", "number"), Column("a reason among such", "prose")),
        tuple(
            (name, settings, f"{macs / reach.total:.0%}", reason)
            for name, each in found.items()
            for settings, reach in zip(SETTINGS, each, strict=True)
            for reason, macs in sorted(reach.kept.items(), key=lambda item: -item[1])
            if macs >= 0.01 * reach.total
        ),
    )
    print(as_text([shares, reasons], width=200))


if __name__ == "__main__":
    main()
