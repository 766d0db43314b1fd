"""Compare methods and modes of calibration at equal MACs, without fine-tuning: what is left of the outputs.

Every layer that the separable split is for takes at most the share given of the MACs that it has at AMCT's ranks,
whatever the method; of the ranks that it allows, those of least error of the weight are taken, and with
``method="auto"`` the method too, by the data where there are any. Figures are the accuracy on the digits network's test
images, or that of judging.py on images that a pretrained network was not fitted to, in %, then the relative error of
the outputs; with several seeds, means.

    python tools/methods.py                                   # the digits network; six minutes
    python tools/methods.py --networks pp-ocr --images 8      # a pretrained one; four minutes (extra: real)
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import cast, get_args

import torch
from torch import nn

from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch.tensor_decompose import DecompositionConfig, FixedRank, plan_decomposition
from amct_pytorch.tensor_decompose.calibration.data import Mode
from amct_pytorch.tensor_decompose.methods.candidates import best_within
from amct_pytorch.tensor_decompose.methods.weight_group import WeightGroup
from amct_pytorch.tensor_decompose.model.layers import Layer, survey

from judging import IMAGES, NETWORKS, Case, case

METHODS = ("separable", "channel", "tucker2", "auto")

SHARES = (1.0, 0.5, 1 / 3)
"""Of the MACs at AMCT's ranks."""

VARIANTS = ("plain", *get_args(Mode))
"""The split without data, and the modes of `Calibration`."""


def configs(judged: Case, share: float) -> dict[str, DecompositionConfig]:
    """By method, the settings by which each layer has no more than its share of the MACs."""
    network = judged.load()
    layers = {layer.names[0]: layer for layer in survey(network).layers}
    amct = DecompositionConfig(rule=judged.rule, require_gain=False)
    planned = plan_decomposition(network, amct, example_inputs=judged.held_out[0][:1])
    limits = {layer.name: share * (layer.macs_after or 0) for layer in planned.layers if layer.decompose}
    calls = _calls({name: layers[name] for name in limits}, judged, network)
    found = {}
    for method in METHODS[:-1]:
        settings = DecompositionConfig(method, rule="any", rank_multiple=1)
        ranks = {}
        for name, limit in limits.items():
            group = WeightGroup((layers[name],), settings, ((calls[name],),))
            best = best_within(group, group.spectrum(), int(limit))
            if best is None:
                raise SystemExit(f"{name}: no {method} split takes a share of {share:.2g} of its MACs at AMCT's ranks")
            ranks[name] = best.ranks
        found[method] = DecompositionConfig(method, rule=judged.rule, rank_multiple=1, rank=FixedRank(ranks))
    found["auto"] = DecompositionConfig("auto", rule=judged.rule, rank_multiple=1, rank=found["separable"].rank)
    return found


def _calls(layers: dict[str, Layer], judged: Case, network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of the input of each layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        layer.module.register_forward_pre_hook(
            lambda _, inputs, name=name: shapes.__setitem__(name, tuple(inputs[0].shape))
        )
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        network(judged.held_out[0][:1])
    for hook in hooks:
        hook.remove()
    return shapes


def table(network: str, shares: Sequence[float], variants: Sequence[str], images: int, seeds: int) -> Table:
    """Means over the seeds for each share and method."""
    rows = []
    cases = [case(network, images, seed) for seed in range(seeds)]
    for share in shares:
        for method, config in configs(cases[0], share).items():
            cells = [f"{share:.2g}", method]
            for variant in variants:
                mode = None if variant == "plain" else cast(Mode, variant)
                found = [judged.measure(config, mode) for judged in cases]
                percent, error = (
                    statistics.fmean(values)
                    for values in zip(*((one.percent, one.error) for one in found), strict=True)
                )
                cells.append(f"{percent:.2f} {error:.4f}")
            rows.append(tuple(cells))
            print(network, *cells, file=sys.stderr, flush=True)
    columns = (Column("share", "number"), Column("method"), *(Column(variant, "number") for variant in variants))
    return Table(f"{network}, {images} images", columns, tuple(rows))


def main() -> None:
    """Measure, and print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["digits"])
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of the MACs at AMCT's ranks")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--images", type=int, help="to fit to (default by network)")
    parser.add_argument("--seeds", type=int, default=1, help="how many draws of images to average over (default 1)")
    arguments = parser.parse_args()
    # One thread fixes the order of summation, so the figures do not depend on the number of cores.
    torch.set_num_threads(1)
    tables = [
        table(name, arguments.shares, arguments.variants, arguments.images or IMAGES[name], arguments.seeds)
        for name in arguments.networks
    ]
    print(as_text(tables, width=200))


if __name__ == "__main__":
    main()
