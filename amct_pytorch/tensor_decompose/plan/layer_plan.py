"""What a plan says of one layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from torch import Tensor

from ..calibration.layer_fit import Fit
from ..info_file.schema import Entry
from ..methods import get_method
from ..methods.weight_group import split_of
from ..model.spec import LayerSpec
from ..model.split import Split


@dataclass(frozen=True)
class LayerPlan:
    """What the plan says of one layer.

    Attributes
    ----------
    names
        Every name of the layer, in the order of named_modules.
    spec
        Its geometry; None where it has none that can be read (a quantised or scripted layer).
    decompose
        The verdict: whether the layer is decomposed, or kept.
    reason
        The reason for the verdict, in words.
    method, mode, ranks
        How it is split, or would have been where only the gain is missing; else None.
    parameters, parameters_after
        Numbers of weights and biases before and after.
    macs, macs_after
        Multiply-accumulates on the example inputs before and after; None without example inputs.
    error
        Relative error of the composed weight in the Frobenius norm; None for a kept layer.
    factors
        Weights of the layers that replace it, on the CPU; empty for a kept layer.
    bias
        The corrected or added bias of the last of them, on the CPU; None where the layer keeps its own.
    fingerprint
        Of the weight that was factored, and of the bias that was corrected, to see whether they have changed
        when the plan is applied.
    response_error, plain_response_error
        With calibration, the relative error ‖difference‖ / ‖response‖ of the layer's response on the held-out
        batches, in the decomposed network, and the same in a network of plain splits of the same ranks: what the
        layers before it leave out is in both.
    fit
        With calibration, how the factors were fitted to it.
    """

    names: tuple[str, ...]
    spec: LayerSpec | None
    decompose: bool
    reason: str
    method: str | None = None
    mode: str | None = None
    ranks: tuple[int, ...] | None = None
    parameters: int | None = None
    parameters_after: int | None = None
    macs: int | None = None
    macs_after: int | None = None
    error: float | None = None
    factors: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)
    bias: Tensor | None = field(default=None, repr=False, compare=False)
    fingerprint: int = field(default=0, repr=False, compare=False)
    response_error: float | None = None
    plain_response_error: float | None = None
    fit: Fit | None = None

    @property
    def name(self) -> str:
        """The first name of the layer."""
        return self.names[0]

    @property
    def rank(self) -> int | None:
        """The rank of a split that has one; None where it has several, or there is no split."""
        return self.ranks[0] if self.ranks is not None and len(self.ranks) == 1 else None

    @property
    def split(self) -> Split:
        """How a decomposed layer is split."""
        method = get_method(cast(str, self.method))
        return split_of(
            method, cast(LayerSpec, self.spec), cast("tuple[int, ...]", self.ranks), added_bias=self.added_bias
        )

    @property
    def entries(self) -> list[Entry]:
        """What the information file says of a decomposed layer, one entry a name."""
        return [Entry(name, self.split) for name in self.names]

    @property
    def added_bias(self) -> bool:
        """Whether the layer gets a bias that it has not."""
        return self.bias is not None and not cast(LayerSpec, self.spec).bias
