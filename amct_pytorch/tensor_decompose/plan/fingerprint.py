"""What says whether a layer's weights have changed since a plan was made."""

from __future__ import annotations

from ..._run.tensors import checksum
from ..model.spec import LayerModule


def fingerprint(layer: LayerModule, with_bias: bool) -> int:
    """A number that changes when the layer's weight does, or its bias."""
    return checksum([layer.weight, *([layer.bias] if with_bias and layer.bias is not None else [])])
