"""What is logged, by the logger ``amct_pytorch``: what was done at INFO, and at WARNING that nothing was.

It has no handler of its own. Until the user sets logging up, Python prints warnings alone, to stderr.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from torch import nn

from ...errors import listed
from ..config import DecompositionConfig
from ..methods.eligible import why_kept
from ..model.layers import Survey
from .layer_plan import LayerPlan

_LOGGER = logging.getLogger("amct_pytorch")

# Reasons why layers are kept that are named, those of the most layers first.
_MOST_REASONS = 3


def log_chosen(budget: str) -> None:
    """Log what was chosen for a budget, if there was one."""
    if budget:
        _LOGGER.info("%s", budget)


def log_applied(layers: Sequence[LayerPlan], place: Path | None) -> None:
    """Log the layers that were decomposed, and where the information file was written."""
    decomposed = [layer for layer in layers if layer.decompose]
    for layer in decomposed:
        ranks = ", ".join(map(str, layer.ranks or ()))
        _LOGGER.info("layer %r: %s at rank %s (%s)", layer.name, layer.method, ranks, layer.reason)
    _LOGGER.info("%d of %d layers are decomposed", len(decomposed), len(layers))
    if place is not None:
        _LOGGER.info("wrote %s", place)


def warn_of_from_pretrained(layers: Sequence[LayerPlan], model: nn.Module) -> None:
    """Log that ``save_pretrained``, as in transformers and diffusers, keeps weights alone, if the model has it.

    ``from_pretrained`` builds the original structure, and gives layers whose weights it does not find random ones.

    Parameters
    ----------
    layers
        What was planned for every layer.
    model
        The model, decomposed.
    """
    kinds = (type(module) for module in model.modules())
    kind = next((kind for kind in kinds if hasattr(kind, "save_pretrained") and hasattr(kind, "from_pretrained")), None)
    if kind is not None and any(layer.decompose for layer in layers):
        _LOGGER.warning(
            "save_pretrained of %s writes the weights of the decomposed layers but not their structure, so "
            "from_pretrained would replace them by random ones: call decompose_network in the __init__ of a class "
            "derived from it and load by that, or use save_decomposed and load_decomposed of amct_pytorch.checkpoint",
            kind.__name__,
        )


def log_rebuilt(names: Collection[str], path: str | os.PathLike[str]) -> None:
    """Log the layers that were given the structure that an information file describes."""
    _LOGGER.info("%s: %d layers rebuilt: %s", os.fspath(path), len(names), listed(names) or "none")


def warn_if_none(layers: Sequence[LayerPlan], found: Survey, config: DecompositionConfig) -> None:
    """Log why no layer was decomposed, and what would decompose some.

    Nothing is said where a layer was, or has been by an earlier call, or where a rule or a budget keeps every layer.

    Parameters
    ----------
    layers
        What was planned for every layer.
    found
        What the model is.
    config
        What it was planned by.
    """
    if any(layer.decompose for layer in layers) or found.chains:
        return
    by_kind: dict[str, list[LayerPlan]] = defaultdict(list)
    for layer in layers:
        if not layer.reason.startswith(("left out by", "kept within")):
            by_kind[re.sub(r"[\d,.]+", "#", layer.reason)].append(layer)  # reasons that differ in numbers are one
    if layers and not by_kind:
        return
    most = sorted(by_kind.values(), key=len, reverse=True)[:_MOST_REASONS]
    reasons = "; ".join(f"{len(same)} of {len(layers)}, such as {same[0].name!r}: {same[0].reason}" for same in most)
    wider = dataclasses.replace(config, method="auto", rule="any")
    reached = [
        layer.names[0]
        for layer in found.layers
        if layer.why_not is None
        and layer.spec is not None
        and config.for_layer(layer.names) != wider.for_layer(layer.names)
        and why_kept([layer.spec], wider) is None
    ]
    hint = f'; method="auto" with rule="any" can split {len(reached)} layers: {listed(reached)}' if reached else ""
    _LOGGER.warning("no layer was decomposed: %s%s", reasons or "it has none that the methods in use are for", hint)
