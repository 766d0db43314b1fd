"""The contract of a decomposition method: what it says of a layer's geometry, and does to its weight.

A method is one class, and no state: the same object serves every layer. What it does not say, the rest of the library
works out from the geometry of its stages: MACs, the composed kernel, building the chain, the information file,
checkpoints, and calibration. `amct_pytorch.method_testing.MethodConformance` holds the checks that each must pass.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ..model.spec import LayerSpec
from ..ranks.spectrum import Spectrum


class Method(abc.ABC):
    """Replaces a layer by several smaller ones, its stages, one after the other.

    On every spatial axis one stage has the layer's kernel, stride, padding and dilation, and the others are
    pointwise; so a split at full ranks computes what the layer does, for every padding mode.
    """

    name: ClassVar[str]
    """What it is called in settings and files."""

    stage_names: ClassVar[tuple[str, ...]] = ("first", "last")
    """What its stages are called in the information file, in order."""

    axes: ClassVar[tuple[int, ...]] = (2,)
    """How many spatial axes the layers have that it is for: 0 for Linear, 1 to 3 for Conv1d to Conv3d.

    Layers of other kinds are in none of its plans. Of these, `impossible` says which it cannot split.
    """

    @abc.abstractmethod
    def impossible(self, layer: LayerSpec) -> str | None:
        """Why no split of this geometry computes what the layer does, in words; None where one does."""

    def why_not(self, layer: LayerSpec) -> str | None:
        """Why a layer of any kind is not split, in words; None where it can be."""
        if layer.axes not in self.axes:
            return f"it is a {layer.kind}, which the method {self.name!r} does not split"
        return self.impossible(layer)

    def axes_by(self, rule: str) -> tuple[int, ...]:
        """Of `axes` those that a plan speaks of by a rule, ``"amct"`` or ``"any"``; by default all."""
        return self.axes

    def unadvised(self, layer: LayerSpec) -> str | None:
        """Why a layer that could be split is kept unless ``rule="any"``, in words; None where it is not."""
        return None

    def mode(self, layer: LayerSpec) -> str:
        """Name of the form that the split of this geometry has, for plans and files."""
        return self.name

    @abc.abstractmethod
    def full_ranks(self, layer: LayerSpec) -> tuple[int, ...]:
        """The ranks at which the split is exact for every weight; as many as the split has, always."""

    @abc.abstractmethod
    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        """The layers that replace this one, in order. Only the last has a bias, and it does where the layer does."""

    @abc.abstractmethod
    def spectrum(self, weight: Tensor, layer: LayerSpec, metric: Tensor | None = None) -> Spectrum:
        """From which the error at any ranks follows, without splitting.

        Parameters
        ----------
        weight
            (out, in / groups, *kernel), float32 or float64, finite, on the CPU; not to be changed.
        layer
            Its geometry.
        metric
            What the error is measured in. None for the Frobenius norm of the weight. Otherwise (d, d), upper
            triangular, regular, float64, with the weight in float64: a square root of the second moment of what the
            first stage sees, d = in · its kernel, so that the error of the response is ‖metric · E‖ for an error E
            with these d values along its rows.

        Returns
        -------
        Spectrum
            With the singular vectors, if `split` can use them.
        """

    @abc.abstractmethod
    def split(
        self,
        weight: Tensor,
        layer: LayerSpec,
        ranks: Sequence[int],
        metric: Tensor | None = None,
        spectrum: Spectrum | None = None,
    ) -> tuple[Tensor, ...]:
        """Weights of the stages at these ranks: the split of least error in the metric, or near it.

        Entries should be of similar size in all of them, so that half precision can hold them.

        Parameters
        ----------
        weight, layer, metric
            As for `spectrum`.
        ranks
            From 1 to the full ranks.
        spectrum
            That of the same weight and metric, to save computing it again; its singular vectors may be missing, or
            cut to those that these ranks take.
        """

    def ranks_of(self, layer: LayerSpec, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The ranks that a file means, from the shapes of the stages' weights, which need not be right.

        By default the channels between the stages, a rank each.
        """
        return tuple(shape[0] for shape in shapes[:-1])
