"""How a layer was split."""

from __future__ import annotations

from dataclasses import dataclass

from .spec import LayerSpec


@dataclass(frozen=True)
class Split:
    """What the information file says of a decomposed layer.

    Attributes
    ----------
    layer
        Geometry of the layer before.
    method
        Name of the decomposition method.
    ranks
        At which it was split.
    stages
        Geometry of the layers that replace it, in order.
    added_bias
        Whether the last of them has a bias although the layer had none.
    """

    layer: LayerSpec
    method: str
    ranks: tuple[int, ...]
    stages: tuple[LayerSpec, ...]
    added_bias: bool = False
