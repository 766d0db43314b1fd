"""What there is to factor: a weight, the layers that share it, and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from ..._run.tensors import widened
from ...errors import ConfigError
from ..config import DecompositionConfig
from ..model.layers import Found
from ..model.spec import ConvSpec, host_weight
from . import Factors, Method, get_method


@dataclass(frozen=True)
class Job:
    """A weight to factor: the layers that share it, and their common settings."""

    layers: tuple[Found, ...]
    settings: DecompositionConfig

    @property
    def conv(self) -> ConvSpec:
        """Geometry of the first of the layers; the others' weights have the same shape."""
        return cast(ConvSpec, self.layers[0].conv)

    @property
    def modules(self) -> tuple[nn.Conv2d, ...]:
        """The layers themselves."""
        return tuple(cast(nn.Conv2d, layer.module) for layer in self.layers)

    @property
    def name(self) -> str:
        """The first name of the first layer."""
        return self.layers[0].names[0]

    @property
    def method(self) -> Method:
        """How the weight is to be split."""
        return get_method(self.settings.method)

    def parameters_at(self, rank: int) -> int:
        """Number of weights and biases of one layer after a split at this rank."""
        return sum(stage.parameters for stage in self.method.stages(self.conv, rank))

    def gains(self, rank: int) -> bool:
        """Whether a split at this rank is wanted: it has fewer parameters, or need not have."""
        return not self.settings.require_gain or self.parameters_at(rank) < self.conv.parameters

    def weight(self) -> torch.Tensor:
        """The weight on the host, float64 where it is that, else float32."""
        return widened(host_weight(self.modules[0]))

    def factorise(self, settings: DecompositionConfig, root: torch.Tensor | None = None) -> Factors:
        """Factors of the weight, in float64 with a root; see `Method.factorise`."""
        weight = self.weight() if root is None else self.weight().double()
        try:
            return self.method.factorise(weight, self.conv, settings, root)
        except ConfigError as error:
            raise ConfigError(f"layer {self.name!r}: {error}") from None
