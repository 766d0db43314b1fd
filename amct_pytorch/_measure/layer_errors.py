"""Errors of a decomposed layer on a device, compared with float64 on the host and with the original layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from .._report.units import name_of, ratio_of
from ..backend import Tolerance
from ..tensor_decompose.model.chain import DecomposedLayer
from ..tensor_decompose.model.spec import LayerModule
from .pairing import Pair
from .validation_report import LayerValidation


@dataclass
class LayerErrors:
    """Errors of one decomposed layer, accumulated over its calls.

    Attributes
    ----------
    chain
        The decomposed layer, on the device.
    calls
        Number of calls compared.
    device, reference, worst, largest
        Sums of |y − r|² and of |r|², largest |y − r| and largest |r| of the chain's response y on the device, where the
        reference r is that of the same chain in float64 on the host.
    lost, response
        Sums of |y − r|² and of |r|², where r is the original layer's response on the device.
    exact
        The chain in float64 on the host, built at the first call.
    """

    chain: DecomposedLayer
    calls: int = 0
    device: float = 0.0
    reference: float = 0.0
    worst: float = 0.0
    largest: float = 0.0
    lost: float = 0.0
    response: float = 0.0
    exact: nn.Sequential | None = field(default=None, repr=False)

    def add(self, arrived: torch.Tensor, response: torch.Tensor) -> None:
        """Run the chain on an input of the original layer, on the device and on the host, and add its errors.

        Parameters
        ----------
        arrived
            Input of the original layer in one call.
        response
            Response of the original layer to it.
        """
        if self.exact is None:
            self.exact = _in_float64(self.chain)
        # Skip the user's hooks, which may change inputs or outputs.
        found = nn.Sequential.forward(self.chain, arrived).cpu().double()  # type: ignore[no-untyped-call]
        exact = self.exact(arrived.cpu().double())
        original = response.cpu().double()
        self.calls += 1
        self.device += float((found - exact).square().sum())
        self.reference += float(exact.square().sum())
        self.worst = _max(self.worst, float((found - exact).abs().max()))
        self.largest = _max(self.largest, float(exact.abs().max()))
        self.lost += float((found - original).square().sum())
        self.response += float(original.square().sum())

    def verdict(self, pair: Pair, tolerance: Tolerance, dtype: torch.dtype) -> LayerValidation:
        """Judge whether the device is correct, and state the response error of the decomposition.

        Parameters
        ----------
        pair
            The layer and its chain.
        tolerance
            Largest errors that count as rounding.
        dtype
            The type that was computed in.
        """
        error, worst = ratio_of(math.sqrt(self.device), math.sqrt(self.reference)), ratio_of(self.worst, self.largest)
        if not self.calls:
            verdict = "did not run"
        elif not math.isfinite(error) and self.largest > torch.finfo(dtype).max:
            verdict = f"wrong: its responses reach {self.largest:.1e}, more than {name_of(dtype)} can hold"
        elif not math.isfinite(error):
            verdict = "wrong: not finite"
        elif error > tolerance.norm:
            verdict = f"wrong: error {error:.1e}, expected at most {tolerance.norm:.1e}"
        elif worst > tolerance.worst:
            verdict = f"wrong: error {worst:.1e} at one place, expected at most {tolerance.worst:.1e}"
        else:
            verdict = "right"
        response = ratio_of(math.sqrt(self.lost), math.sqrt(self.response))
        return LayerValidation(pair.name, pair.mode, pair.ranks, self.calls, error, worst, response, verdict)


def _in_float64(chain: DecomposedLayer) -> nn.Sequential:
    """The same layers on the host in float64."""
    stages = []
    for spec, stage in zip(chain.stages, cast("Sequence[LayerModule]", chain), strict=True):
        layer = spec.build()
        layer.weight = nn.Parameter(stage.weight.cpu().double())
        layer.register_parameter("bias", None if stage.bias is None else nn.Parameter(stage.bias.cpu().double()))
        stages.append(layer)
    return nn.Sequential(*stages)


def _max(largest: float, value: float) -> float:
    """The larger of two values; NaN if either is NaN."""
    return value if math.isnan(value) or value > largest else largest
