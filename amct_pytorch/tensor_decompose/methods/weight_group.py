"""What is factored: a weight, the layers that share it, and their settings."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..._run.tensors import widened
from ...errors import LayerError, quoted
from ..config import DecompositionConfig
from ..model.compose import error_of_chain
from ..model.eligibility import host_weight
from ..model.layers import Layer
from ..model.spec import LayerModule, LayerSpec, macs_over_calls
from ..model.split import Split
from ..ranks.choose import RankRequest
from ..ranks.spectrum import Spectrum
from .base import Method
from .eligible import eligible_methods
from .registry import get_method


@dataclass(frozen=True)
class Factors:
    """A weight as those of the stages that replace the layer.

    Attributes
    ----------
    ranks
        At which it was split.
    weights
        One for each stage, float32 or float64, on the CPU.
    error
        Relative error of the composed kernel in the Frobenius norm.
    """

    ranks: tuple[int, ...]
    weights: tuple[Tensor, ...]
    error: float


@dataclass(frozen=True)
class WeightGroup:
    """A weight to factor.

    Attributes
    ----------
    layers
        Those that share it.
    settings
        What they have in common.
    calls
        For each of these layers the shapes of the inputs of all its calls, as far as they are known.
    """

    layers: tuple[Layer, ...]
    settings: DecompositionConfig
    calls: tuple[Sequence[Sequence[int]], ...] = ()

    @property
    def spec(self) -> LayerSpec:
        """Geometry of the first of the layers; the others' weights have the same shape."""
        return cast(LayerSpec, self.layers[0].spec)

    @property
    def modules(self) -> tuple[LayerModule, ...]:
        """The layers themselves."""
        return tuple(cast(LayerModule, layer.module) for layer in self.layers)

    @property
    def name(self) -> str:
        """The first name of the first layer."""
        return self.layers[0].names[0]

    @property
    def method(self) -> Method:
        """How the weight is to be split, where its settings do not leave that open."""
        return get_method(self.settings.method)

    @property
    def by_method(self) -> dict[str, WeightGroup]:
        """The same by each method that may split it, in their order; one unless its settings leave the method open."""
        return {
            method.name: dataclasses.replace(self, settings=dataclasses.replace(self.settings, method=method.name))
            for method in eligible_methods([cast(LayerSpec, layer.spec) for layer in self.layers], self.settings)
        }

    @property
    def request(self) -> RankRequest:
        """What ranks are wanted for it."""
        return RankRequest(self.name, self.settings.method, self.settings.rank, self.settings.rank_multiple)

    @property
    def cost(self) -> float:
        """Relative time that its spectrum takes: that of an eigendecomposition of its smaller sides."""
        return float(sum(rank**3 for rank in self.method.full_ranks(self.spec)))

    def stages(self, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        """What replaces the first of the layers at these ranks."""
        return self.method.stages(self.spec, ranks)

    def split_of(self, layer: Layer, ranks: Sequence[int], *, added_bias: bool = False) -> Split:
        """How one of the layers is split at these ranks."""
        return split_of(self.method, cast(LayerSpec, layer.spec), ranks, added_bias=added_bias)

    @functools.cached_property
    def macs(self) -> int:
        """Multiply-accumulates over all known calls of the layers as they are."""
        return self._macs(lambda layer: (layer,))

    def parameters_at(self, ranks: Sequence[int]) -> int:
        """Number of weights and biases of one layer after a split at these ranks."""
        return sum(stage.parameters for stage in self.stages(ranks))

    def macs_at(self, ranks: Sequence[int]) -> int | None:
        """Multiply-accumulates over all known calls after a split at these ranks; None where none are known."""
        return self._macs(lambda layer: self.method.stages(layer, ranks)) or None

    def cost_at(self, ranks: Sequence[int]) -> int:
        """What splits are compared by: their multiply-accumulates where calls are known, else their parameters."""
        macs = self.macs_at(ranks)
        return self.parameters_at(ranks) if macs is None else macs

    def shortfall(self, ranks: Sequence[int]) -> str | None:
        """Why a split at these ranks is not wanted, in words; None where it gains something, or need not."""
        if not self.settings.require_gain:
            return None
        at = f"a split at rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} would"
        before, after = self.spec.parameters, self.parameters_at(ranks)
        if after >= before:
            return f"{at} have {after:,} parameters, no fewer than {before:,}"
        before, macs = self.macs, self.macs_at(ranks)
        if before and macs is not None and macs >= before:
            return f"{at} take {macs:,} MACs, no fewer than {before:,}"
        return None

    def gains(self, ranks: Sequence[int]) -> bool:
        """Whether a split at these ranks is wanted."""
        return self.shortfall(ranks) is None

    def weight(self) -> Tensor:
        """The weight on the host, float64 where it is that, else float32."""
        return widened(host_weight(self.modules[0]))

    def spectrum(self, metric: Tensor | None = None, *, exact: bool = False) -> Spectrum:
        """The spectrum of the weight, with singular vectors enough for every split that could be wanted.

        Parameters
        ----------
        metric
            See `Method.spectrum`.
        exact
            Whether to compute it in float64 whatever the weight is in; with a metric it always is.
        """
        weight = self.weight()
        weight = weight.double() if exact or metric is not None else weight
        with self._naming_the_layer():
            spectrum = self.method.spectrum(weight, self.spec, metric)
        return spectrum.keeping(self._largest_wanted())

    def factors(self, ranks: Sequence[int], spectrum: Spectrum, metric: Tensor | None = None) -> Factors:
        """The split at these ranks.

        Parameters
        ----------
        spectrum
            That of the weight in the same metric.
        metric
            See `Method.spectrum`.
        """
        weight = self.weight()
        if spectrum.exact or metric is not None:
            weight = weight.double()
        with self._naming_the_layer():
            weights = self.method.split(weight, self.spec, ranks, metric, spectrum)
        return self.factors_of(ranks, weights)

    def factors_of(self, ranks: Sequence[int], weights: Sequence[Tensor]) -> Factors:
        """These weights of the stages, with the error of their kernel."""
        weight = self.weight().to(weights[0].dtype)
        error = error_of_chain(weights, self.stages(ranks), weight, self.spec.groups)
        return Factors(tuple(ranks), tuple(weights), error)

    def _macs(self, stages_of: Callable[[LayerSpec], Sequence[LayerSpec]]) -> int:
        # Layers that share a weight may differ in stride.
        layers = zip(self.layers, self.calls, strict=False)  # no calls where none are known
        return sum(macs_over_calls(stages_of(cast(LayerSpec, layer.spec)), calls) for layer, calls in layers)

    @contextlib.contextmanager
    def _naming_the_layer(self) -> Iterator[None]:
        """Let an error of linear algebra say which layer it is of, and what to do.

        Raises
        ------
        LayerError
            Such an error occurs inside.
        """
        try:
            yield
        except (torch.linalg.LinAlgError, np.linalg.LinAlgError) as error:  # type: ignore[attr-defined]  # documented
            raise LayerError(
                f"layer {quoted(self.name)}: its weight cannot be factored by {self.method.name}: {error}; leave the "
                f"layer out with DecompositionConfig(layers={{{quoted(self.name)}: False}}), or give it another method"
            ) from error

    def _largest_wanted(self) -> tuple[int, ...]:
        """The largest ranks that a split could be wanted at. Of several, only all together can be said to be."""
        full = self.method.full_ranks(self.spec)
        if len(full) > 1 or self.gains(full):
            return full
        low, high = 0, full[0]  # parameters and MACs grow with the rank
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.gains((middle,)) else (low, middle)
        return (low,)


def split_of(method: Method, layer: LayerSpec, ranks: Sequence[int], *, added_bias: bool = False) -> Split:
    """How a method splits a layer at these ranks.

    Parameters
    ----------
    added_bias
        Whether the last stage has a bias although the layer has none.
    """
    *before, last = method.stages(layer, ranks)
    stages = (*before, dataclasses.replace(last, bias=last.bias or added_bias))
    return Split(layer, method.name, tuple(ranks), stages, added_bias)
