"""From sums of moments to the factors of one weight group, corrected biases, and how they were found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..methods.weight_group import Factors, WeightGroup
from ..model.compose import composed_weight, relative_error, ungrouped
from .biases import bias_of
from .chain_fit import ChainFit, Start, fit_chain
from .data import LayerMode
from .least_squares import adapted_kernel
from .moments import MomentSums
from .stage_kernels import prefix_offsets
from .whitening import Root, shrunk_root


@dataclass(frozen=True)
class Fit:
    """How the factors of a layer were fitted to the calibration data.

    Attributes
    ----------
    mode
        ``"whiten"``, ``"refit"``, ``"reconstruct"``, ``"refine"``, or ``"plain"`` for the split of the weight alone.
    samples
        Number of patches that the fit had: of the whole layer, or of the first stage where the split alone was fitted.
    unknowns
        Numbers to find for each output of the fit: the size of the last stage's patch and a bias, or where the split
        alone was fitted the size of the patch that this was fitted to.
    condition
        Condition of the second moment of the first stage's patches after shrinkage; 1 for the plain split.
    shrinkage
        By how much it was shrunk towards white noise: 0 trusts the data, 1 gives the plain split.
    ridge
        Ridge of the last least squares that changed the factors, in units of the mean variance of what the last stage
        sees; infinite where the data were not trusted and the factors are those of the plain split. None where they
        are those of a whitened one: in whiten, and where least squares had nothing to add.
    scales
        Smallest and largest scale of an output channel, see `rescale`; None where the layer was not scaled.
    note
        Why it is not the mode asked for, and what refining came to; else empty.
    """

    mode: str
    samples: int = 0
    unknowns: int = 0
    condition: float = math.nan
    shrinkage: float = math.nan
    ridge: float | None = None
    scales: tuple[float, float] | None = None
    note: str = ""

    def __str__(self) -> str:
        if not self.samples:
            return f"{self.mode} ({self.note})" if self.note else self.mode
        text = (
            f"{self.mode}, {self.samples / max(1, self.unknowns):.3g} samples an unknown, "
            f"condition {self.condition:.0e}, shrunk {self.shrinkage:.2g}"
        )
        if self.ridge is not None:
            text += f", ridge {self.ridge:.0e}"
        if self.scales is not None:
            text += f", scaled {self.scales[0]:.2g} to {self.scales[1]:.2g}"
        return f"{text} ({self.note})" if self.note else text


@dataclass(frozen=True)
class Fitted:
    """What replaces the layers of a group.

    Attributes
    ----------
    factors, plain
        The fitted factors, and those of the plain split at the same ranks.
    biases
        For each layer of the group its corrected or added bias (out,), or None where it keeps what it has.
    fit
        How they were found.
    """

    factors: Factors
    plain: Factors
    biases: tuple[Tensor | None, ...]
    fit: Fit

    @classmethod
    def unfitted(cls, group: WeightGroup, plain: Factors, note: str) -> Fitted:
        """The plain split."""
        return cls(plain, plain, (None,) * len(group.layers), Fit("plain", note=note))


def fit(
    group: WeightGroup,
    plain: Factors,
    sums: MomentSums,
    biases: Sequence[int | None],
    mode: LayerMode,
    note: str = "",
    *,
    as_seen: bool,
) -> Fitted:
    """The factors of a group's weight that the data ask for.

    Where the decomposed network gives other inputs than these, since layers before are cut as well, the whitened
    split takes a share of their energy for white noise, or it would be careless where the noise is. As this share
    serves what the layer's own plain split leaves out of its weight: the lower the ranks, the more. In reconstruct it
    is more by as many times as a patch has more values than there are samples: the layers before are fitted to the
    same inputs, and the fewer these are, the more others differ from them.

    Parameters
    ----------
    plain
        The split of the weight alone, at the ranks wanted.
    sums
        Of the calibration data. In whiten they need not be of whole patches.
    biases
        The number of each layer's bias; see `correctable_biases`.
    mode
        How to fit.
    note
        Why this is not the mode that the user asked for.
    as_seen
        Whether the inputs are those that the decomposed network gives the layer, on other data too.
    """
    ranks, stages = plain.ranks, group.stages(plain.ranks)
    kernel = ungrouped(group.weight().double(), group.spec.groups).flatten(1)
    offsets = prefix_offsets(group.spec, stages[:1])
    means = sums.means()
    total, halves = sums.finish(kernel)
    seen, seen_by_halves = sums.seen_by_first(offsets)
    scarcity = max(1.0, group.spec.patch_size / sums.samples) if mode == "reconstruct" else 1.0
    root = shrunk_root(seen, seen_by_halves, least=0.0 if as_seen else plain.error**2 * scarcity)
    whitened = group.factors(ranks, group.spectrum(root.root), root.root)
    start = Start(whitened.weights, unknowns=len(offsets), patches=offsets.shape[1])
    chain = ChainFit(tuple(weight.double() for weight in whitened.weights), start, whitened=True, ridge=math.inf)
    if mode != "whiten":
        starts = [start, Start(plain.weights)]
        if total.error(kernel) > total.rounding:  # the inputs are not those of the original
            adapted = adapted_kernel(kernel, total, halves, group.spec.groups).reshape(group.spec.weight_shape)
            weights = group.method.split(adapted, group.spec, ranks, root.root)
            starts.insert(0, Start(weights, unknowns=group.spec.patch_size))
        chain = fit_chain(group.spec, stages, starts, root, total, halves)
    weights = chain.weights
    new_kernel = composed_weight(weights, stages).flatten(1)
    corrected: dict[int, Tensor] = {}
    for module, number in zip(group.modules, biases, strict=True):
        if number is not None and number in means and number not in corrected:
            patch, target = means[number]
            wanted = kernel @ patch if target is None else target
            corrected[number] = bias_of(module) + wanted - new_kernel @ patch
    precision = group.weight().dtype
    return Fitted(
        factors=Factors(
            ranks=ranks,
            weights=tuple(weight.to(precision) for weight in weights),
            error=relative_error(new_kernel, kernel),
        ),
        plain=plain,
        biases=tuple(None if number is None else corrected.get(number) for number in biases),
        fit=_how(mode, chain, root, offsets, sums.samples, note),
    )


def _how(mode: LayerMode, chain: ChainFit, root: Root, offsets: Tensor, samples: int, note: str) -> Fit:
    """The figures of the fit that made the weights of a chain, which need not be the last one tried."""
    split_alone = chain.whitened and math.isinf(chain.ridge)  # least squares left the last stage as it was
    of_last = math.prod(chain.weights[-1].shape[1:]) + 1
    return Fit(
        mode,
        samples=samples * chain.start.patches if split_alone else samples,
        unknowns=chain.start.unknowns or of_last if split_alone else of_last,
        condition=root.condition if chain.whitened else 1.0,
        shrinkage=root.shrinkage if chain.whitened else 1.0,
        ridge=None if split_alone else chain.ridge,
        note=note,
    )
