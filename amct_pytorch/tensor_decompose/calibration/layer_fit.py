"""From sums of moments to what replaces the layers of one job: factors, corrected biases, and how they were found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..config import DecompositionConfig, EvbmfRank, FixedRank, RatioRank
from ..methods import Factors
from ..methods.low_rank import balanced
from ..methods.weight_group import Job
from ..model.chain import DecomposedConv2d
from ..model.replace import bias_for, build_row, parameters_like
from ..model.spec import ConvSpec
from .data import Mode
from .least_squares import Moments, Refit, composed, improve_first, patch_offsets, refit, seen_by_first, shrunk_root
from .moments import MomentSums

# Positions sampled for each unknown of the largest problem: of the first convolution's patch, several of which lie at
# each position, or of the whole one.
_POSITIONS_PER_UNKNOWN: dict[Mode, int] = {"whiten": 2, "refit": 4, "reconstruct": 4}
# And at least so many, which cost a small layer little.
_LEAST_POSITIONS = 2048
# Policies whose ranks are those without calibration.
_WHATEVER_THE_DATA = (EvbmfRank, FixedRank, RatioRank)


@dataclass(frozen=True)
class Fit:
    """How the factors of a layer were fitted to the calibration data.

    Attributes
    ----------
    mode
        ``"whiten"``, ``"refit"``, ``"reconstruct"``, or ``"plain"`` for the split of the weight alone.
    samples
        Number of patches that the fit had: of the whole layer, or in whiten of the first convolution.
    unknowns
        Numbers to find for each output of the fit: in whiten the size of the first convolution's patch, else that
        of the last one's, and a bias.
    condition
        Condition of the second moment of the first convolution's patches after shrinkage.
    shrinkage
        By how much it was shrunk towards white noise: 0 trusts the data, 1 gives the plain split.
    ridge
        Ridge of the least squares, in units of the mean variance of what the last convolution sees; infinite
        where the data were not trusted. None in whiten.
    scales
        Least and largest scale of an output channel, as of `rescale`; None where there is none.
    note
        Why it is not the mode asked for; else empty.
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
    """What replaces the layers of a job.

    Attributes
    ----------
    factors, plain
        The fitted factors, and those of the plain split at the same rank.
    biases
        For each layer of the job its corrected or added bias (out,), or None where it keeps what it has.
    fit
        How they were found.
    """

    factors: Factors
    plain: Factors
    biases: tuple[Tensor | None, ...]
    fit: Fit

    @classmethod
    def unfitted(cls, job: Job, note: str) -> Fitted:
        """The plain split."""
        plain = job.factorise(job.settings)
        return cls(plain, plain, (None,) * len(job.layers), Fit("plain", note=note))


def rows_for(
    job: Job, factors: Factors, biases: Sequence[Tensor | None] | None = None
) -> dict[nn.Module, DecomposedConv2d]:
    """For each layer of a job what would replace it, with these biases or its own."""
    rows: dict[nn.Module, DecomposedConv2d] = {}
    biases = [None] * len(job.layers) if biases is None else biases
    for layer, module, bias in zip(job.layers, job.modules, biases, strict=True):
        stages = job.method.stages(cast(ConvSpec, layer.conv), factors.rank)
        own = None if bias is None else bias_for(module, bias)
        rows[module] = build_row(module, stages, parameters_like(module.weight, factors.weights), own)
    return rows


def correctable_biases(model: nn.Module, job: Job, *, add: bool) -> tuple[int | None, ...]:
    """For each layer of a job a number for its bias, the same for the same bias; None where it must stay as it is.

    It must where something outside of the job holds it too, and where it has hooks. A layer that has none has one
    of zeros, if such may be added.
    """
    inside = set(job.modules)
    numbers: dict[int, int] = {}
    taken: list[int | None] = []
    elsewhere = {
        id(parameter)
        for module in model.modules()
        for key, parameter in module._parameters.items()
        if parameter is not None and not (module in inside and key == "bias")
    }
    for module in job.modules:
        bias = module._parameters.get("bias")
        if bias is None:
            number = numbers.setdefault(id(module), len(numbers)) if add else None
        elif id(bias) in elsewhere or bias._backward_hooks or getattr(bias, "_post_accumulate_grad_hooks", None):
            number = None
        else:
            number = numbers.setdefault(id(bias), len(numbers))
        taken.append(number)
    return tuple(taken)


def bias_of(module: nn.Conv2d) -> Tensor:
    """Its bias (out,) in float64 on the host, zeros where it has none."""
    if module.bias is None:
        return torch.zeros(module.out_channels, dtype=torch.float64, device="cpu")
    return module.bias.detach().cpu().double()


def offsets_of(job: Job) -> Tensor:
    """See `patch_offsets`."""
    return patch_offsets(job.conv.weight_shape, job.method.stages(job.conv, 1)[0].weight_shape)


def bytes_of_moments(job: Job) -> int:
    """Bytes of the moments of whole patches, in two halves, each with a float32 block beside it."""
    return 2 * (8 + 4) * math.prod(job.conv.weight_shape[1:]) ** 2


def positions_wanted(job: Job, mode: Mode) -> int:
    """How many positions of the layer's response the fit is to sample."""
    unknowns = len(offsets_of(job)) if mode == "whiten" else math.prod(job.conv.weight_shape[1:])
    return max(_POSITIONS_PER_UNKNOWN[mode] * unknowns, _LEAST_POSITIONS)


def fit(
    job: Job, sums: MomentSums, biases: Sequence[int | None], mode: Mode, note: str = "", *, as_seen: bool = True
) -> Fitted:
    """The factors of a job's weight that the data ask for.

    Where the decomposed network gives other inputs than these, since layers before are cut as well, the whitened
    split takes a share of their energy for white noise, or it would be careless where the noise is. As this share
    serves what the layer's own plain split leaves out of its weight: the lower the ranks, the more.

    Parameters
    ----------
    sums
        Of the calibration data; they are used up. In whiten they need not be of whole patches.
    biases
        As of `correctable_biases`.
    note
        Why this is not the mode that the user asked for.
    as_seen
        Whether the inputs are those that the decomposed network gives the layer.
    """
    kernel = job.weight().double().flatten(1)
    offsets = offsets_of(job)
    means = sums.means()
    total, halves = sums.finish(kernel)
    first_moments = [
        seen_by_first(part.second, offsets) if sums.offsets is None else part.second for part in (total, *halves)
    ]
    moments_of_halves = [(half.weight, second) for half, second in zip(halves, first_moments[1:], strict=True)]
    root = shrunk_root(first_moments[0], moments_of_halves)
    if isinstance(job.settings.rank, _WHATEVER_THE_DATA):
        chosen = whitened = plain = job.factorise(job.settings)
    else:
        chosen = whitened = job.factorise(job.settings, root.root)
        plain = job.factorise(_at_rank(job, chosen.rank))
    if not as_seen:
        root = shrunk_root(first_moments[0], moments_of_halves, least=plain.error**2)
    if not as_seen or whitened is plain:
        whitened = job.factorise(_at_rank(job, chosen.rank), root.root)
    first, last, ridge = whitened.weights[0].double(), whitened.weights[1].double(), None
    if mode != "whiten":
        first, last, ridge = _refitted([whitened, plain], offsets, root.root, total, halves)
    new_kernel = composed(first, last, offsets)
    corrected: dict[int, Tensor] = {}
    for module, number in zip(job.modules, biases, strict=True):
        if number is not None and number in means and number not in corrected:
            patch, target = means[number]
            wanted = kernel @ patch if target is None else target
            corrected[number] = bias_of(module) + wanted - new_kernel @ patch
    precision = job.weight().dtype
    samples = sums.samples * (offsets.shape[1] if mode == "whiten" else 1)
    return Fitted(
        factors=Factors(
            weights=(first.to(precision), last.to(precision)),
            rank=whitened.rank,
            why=chosen.why,
            error=relative_error(new_kernel, kernel),
        ),
        plain=plain,
        biases=tuple(None if number is None else corrected.get(number) for number in biases),
        fit=Fit(
            mode,
            samples,
            len(offsets) if mode == "whiten" else math.prod(last.shape[1:]) + 1,
            root.condition,
            root.shrinkage,
            ridge,
            note=note,
        ),
    )


def _refitted(
    starts: Sequence[Factors], offsets: Tensor, root: Tensor, total: Moments, halves: Sequence[Moments]
) -> tuple[Tensor, Tensor, float]:
    """The factors from the start that promises most, and the ridge; never worse on the data than the last start."""
    found: list[tuple[Refit, Tensor, float]] = []
    for start in starts:
        first, last = (weight.double() for weight in start.weights)
        limit = total.error(composed(first, last, offsets))
        result = refit(first, last, offsets, total, halves)
        found.append((result, first, total.error(composed(first, result.last, offsets))))
    allowed = [item for item in found if item[2] <= limit] or found[-1:]
    best, first, _ = min(allowed, key=lambda item: item[0].expected)
    first = improve_first(first, best.last, offsets, root, total, halves)
    best = refit(first, best.last, offsets, total, halves)
    rows, columns = balanced(first.flatten(1), best.last.transpose(0, 1).flatten(1))
    columns = columns.reshape(best.last.transpose(0, 1).shape).transpose(0, 1).contiguous()
    return rows.reshape(first.shape), columns, best.ridge


def _at_rank(job: Job, rank: int) -> DecompositionConfig:
    return dataclasses.replace(job.settings, rank=FixedRank(rank))


def relative_error(found: Tensor, exact: Tensor) -> float:
    """‖found − exact‖ / ‖exact‖, and 0 where exact is."""
    length = float(torch.linalg.vector_norm(exact))
    return float(torch.linalg.vector_norm(found - exact)) / length if length else 0.0
