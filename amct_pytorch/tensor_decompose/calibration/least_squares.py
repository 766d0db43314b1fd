"""The factors of a chain by least squares on the responses of the layer. Float64 numbers on the CPU only.

With P the input patches of a layer (D = in·kernel values each), t its responses without bias, W' a kernel and
c' an intercept, the error of the response is the mean of ‖t − W'·P − c'‖². The best intercept is known, so
everything here works on moments that are centred already (or not, where a layer has no bias to correct).

The last factor has a closed solution; see `descent` for the others. How far to trust the data is estimated from the
data: the moments come in two halves, from different images, and each half judges what the other fits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .stage_kernels import onto_places, seen_through
from .whitening import Root, shrunk_root

# Ridges to choose from, in units of the mean variance of what the last stage sees.
_RIDGES = tuple(10.0**exponent for exponent in range(-6, 3))
# Added to a diagonal, relative to its mean, so that a matrix that is singular but for rounding can be inverted.
_JITTER_OF_INPUTS = 1e-12


@dataclass(frozen=True)
class Moments:
    """Second moments over the positions of a half of the data, or of all of it.

    Attributes
    ----------
    weight
        Number of positions that they stand for; 0 where there is no data.
    second
        (D, D), the mean of P·Pᵀ.
    cross
        (out, D), the mean of t·Pᵀ.
    energy
        The mean of ‖t‖².
    rounding
        Errors of the response up to this may be the rounding of the moments.
    """

    weight: float
    second: Tensor
    cross: Tensor
    energy: float
    rounding: float

    def through(self, prefix: Tensor, offsets: Tensor) -> Moments:
        """Those of what the first stages of a chain answer, at all places that the next one sees.

        Parameters
        ----------
        prefix
            Kernel (R, in, *kernel) of the first stages, without groups, float64.
        offsets
            (d, J) of the prefix; see `prefix_offsets`.
        """
        return replace(
            self,
            second=seen_through(prefix, self.second, offsets),
            cross=onto_places(prefix, self.cross, offsets),
        )

    def error(self, kernel: Tensor) -> float:
        """The mean of ‖t − W'·P‖² for a kernel W' of (out, D)."""
        return max(0.0, self.energy + float(((kernel @ self.second - 2 * self.cross) * kernel).sum()))


@dataclass(frozen=True)
class Refit:
    """A last factor fitted to the data, and how.

    Attributes
    ----------
    last
        (out, R / groups, *kernel).
    ridge
        The ridge chosen, in units of the mean variance of what the last convolution sees; infinite where the
        data were not trusted at all, and the factor is the one it began with.
    expected
        Estimate of the error of the response on other data: each half's fit on the other half.
    begin, error
        Error of the response on these data with the factor that it began with, and with this one.
    """

    last: Tensor
    ridge: float
    expected: float
    begin: float
    error: float


def refit(
    prefix: Tensor, last: Tensor, offsets: Tensor, total: Moments, halves: Sequence[Moments], groups: int = 1
) -> Refit:
    """The last factor by ridge least squares on the responses, with the stages before it as they are.

    The ridge pulls towards the factor given, so the error on these data is never above its own. Which ridge is
    chosen by how well a half of the data fits the other.

    Parameters
    ----------
    prefix
        Kernel (R, in, *kernel) of the stages before, without groups, float64.
    last
        (out, R / groups, *kernel), float64.
    offsets
        (d, J) of the prefix; see `prefix_offsets`.
    total, halves
        Moments of all the data, and of its halves.
    groups
        Of the last stage.
    """
    problem = _Problem.of(prefix, last, offsets, total, groups)
    ridge, expected = ridge_expected(prefix, last, offsets, total, halves, groups)
    if math.isinf(ridge):
        return Refit(last, ridge, expected, problem.begin, problem.begin)
    step = problem.step(ridge)
    error = max(0.0, problem.begin + problem.change(step))
    return Refit(last + step.reshape(last.shape), ridge, expected, problem.begin, error)


def ridge_expected(
    prefix: Tensor, last: Tensor, offsets: Tensor, total: Moments, halves: Sequence[Moments], groups: int = 1
) -> tuple[float, float]:
    """The ridge that `refit` chooses, and the error that it expects on other data; see `Refit`."""
    problems = [_Problem.of(prefix, last, offsets, half, groups) for half in halves]
    weight = sum(half.weight for half in halves)
    begin = sum(half.weight / weight * problem.begin for half, problem in zip(halves, problems, strict=True))
    if begin <= total.rounding or min(half.weight for half in halves) == 0:
        return math.inf, begin
    ridges = (*_RIDGES, math.inf)
    errors = [0.0] * len(ridges)
    for fitted_on, other, half in zip(problems, reversed(problems), reversed(halves), strict=True):
        for index, change in enumerate(fitted_on.changes_on(other, ridges)):
            errors[index] += half.weight / weight * (other.begin + change)
    least = min(range(len(ridges)), key=errors.__getitem__)
    return ridges[least], max(0.0, errors[least])


def refit_last_two(
    prefix: Tensor, core: Tensor, last: Tensor, offsets: Tensor, total: Moments, halves: Sequence[Moments]
) -> tuple[Tensor, Tensor, float]:
    """The last two factors of a chain together, where the very last is pointwise: a least-squares map of low rank.

    The two are a linear map of what the core sees, whose rank is the number of channels between them. Of all these it
    is the one of least error plus ridge, which pulls towards the factors given, so the error on these data is never
    above theirs. The ridge is chosen as in `refit`. (A. J. Izenman, "Reduced-rank regression for the multivariate
    linear model", 1975.)

    Parameters
    ----------
    prefix
        Kernel (R, in, *kernel) of the stages before these two, without groups, float64.
    core
        (R', R, *kernel), float64, of a stage without groups.
    last
        (out, R', 1, ...), float64, likewise.
    offsets
        (d, J) of the prefix; see `prefix_offsets`.
    total, halves
        Moments of all the data, and of its halves.

    Returns
    -------
    core, last : Tensor
        Those given where no gain carries over between the halves.
    ridge : float
        In units of the mean variance of what the core sees; infinite where the factors are those given.
    """
    start = last.flatten(1) @ core.flatten(1)
    block = _Block.of(prefix, start, offsets, total, total.cross)
    if total.energy + block.begin <= total.rounding or min(half.weight for half in halves) == 0:
        return core, last, math.inf
    blocks = [_Block.of(prefix, start, offsets, half, half.cross) for half in halves]
    changes = [0.0] * len(_RIDGES)
    for fitted_on, other, half in zip(blocks, reversed(blocks), reversed(halves), strict=True):
        for index, ridge in enumerate(_RIDGES):
            left, right = fitted_on.of_rank(start, ridge, len(core))
            changes[index] += half.weight * other.change(left @ right - start)
    least = min(range(len(_RIDGES)), key=changes.__getitem__)
    if changes[least] >= 0:
        return core, last, math.inf
    ridge = _RIDGES[least]
    left, right = block.of_rank(start, ridge, len(core))
    return right.reshape(core.shape), left.reshape(last.shape), ridge


@dataclass(frozen=True)
class _Block:
    """Least squares for the change of one group of the last factor, which sees p numbers.

    Attributes
    ----------
    second
        (p, p), second moment of what the group sees; p = R / groups · J.
    left
        (out / groups, p), mean of what the start leaves of the response, times what the group sees.
    begin
        Error of the group at the start, less the energy of its responses.
    """

    second: Tensor
    left: Tensor
    begin: float

    @classmethod
    def of(cls, prefix: Tensor, start: Tensor, offsets: Tensor, moments: Moments, cross: Tensor) -> _Block:
        second, cross = seen_through(prefix, moments.second, offsets), onto_places(prefix, cross, offsets)
        answered = start @ second
        return cls(second, cross - answered, float(((answered - 2 * cross) * start).sum()))

    @functools.cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (p,) of the standardised second moment, and eigenvectors (p, p) in the units of the factor."""
        diagonal = self.second.diagonal()
        floor = _JITTER_OF_INPUTS * float(diagonal.mean()) + torch.finfo(diagonal.dtype).tiny
        scale = diagonal.clamp_min(floor).rsqrt()
        values, vectors = torch.linalg.eigh(scale[:, None] * self.second * scale)
        return values.clamp_min(0), scale[:, None] * vectors

    def step(self, ridge: float) -> Tensor:
        """The best change (out / groups, p) of the factor."""
        values, basis = self._eigen
        return (self.left @ basis) / (values + ridge) @ basis.T

    def of_rank(self, start: Tensor, ridge: float, rank: int) -> tuple[Tensor, Tensor]:
        """The best factor at a rank, as a product of orthonormal columns (out / groups, rank) and (rank, p)."""
        best = start + self.step(ridge)
        metric = self.second + ridge * self.second.diagonal().diag()
        left = torch.linalg.eigh(best @ metric @ best.T).eigenvectors[:, -rank:]
        return left, left.T @ best

    def change(self, step: Tensor) -> float:
        """By how much a step changes the error."""
        return float(((step @ self.second - 2 * self.left) * step).sum())

    def changes_on(self, other: _Block, ridges: Sequence[float]) -> list[float]:
        """By how much this block's step at each ridge changes the error of the other block."""
        values, basis = self._eigen
        images = self.left @ basis
        linear = (images * (other.left @ basis)).sum(0)
        quadratic = (images.T @ images) * (basis.T @ other.second @ basis)
        steps = [1 / (values + ridge) for ridge in ridges]
        return [float(step @ quadratic @ step - 2 * linear @ step) for step in steps]


@dataclass(frozen=True)
class _Problem:
    """Least squares for the change of the last factor: a separate problem for each of its groups."""

    blocks: tuple[_Block, ...]
    begin: float

    @classmethod
    def of(cls, prefix: Tensor, last: Tensor, offsets: Tensor, moments: Moments, groups: int) -> _Problem:
        blocks = tuple(
            _Block.of(rows, start, offsets, moments, cross)
            for rows, start, cross in zip(
                prefix.chunk(groups), last.flatten(1).chunk(groups), moments.cross.chunk(groups), strict=True
            )
        )
        return cls(blocks, max(0.0, moments.energy + sum(block.begin for block in blocks)))

    def step(self, ridge: float) -> Tensor:
        """The best change (out, p) of the last factor."""
        return torch.cat([block.step(ridge) for block in self.blocks])

    def change(self, step: Tensor) -> float:
        """By how much a step changes the error."""
        parts = step.chunk(len(self.blocks))
        return sum(block.change(part) for block, part in zip(self.blocks, parts, strict=True))

    def changes_on(self, other: _Problem, ridges: Sequence[float]) -> list[float]:
        """By how much this problem's step at each ridge changes the error of the other problem."""
        changes = [block.changes_on(same, ridges) for block, same in zip(self.blocks, other.blocks, strict=True)]
        return [sum(change) for change in zip(*changes, strict=True)]


def adapted_kernel(kernel: Tensor, total: Moments, halves: Sequence[Moments], groups: int = 1) -> Tensor:
    """The kernel of a layer that best maps the patches to the responses, drawn towards the kernel given.

    Without shrinkage it is W* = cross·second⁻¹. Where the patches are not those that the original sees, it makes up
    for the difference as far as the layer can, and for a pointwise or Linear one its split under the root of the same
    moment is the best chain of its rank. ("AA-SVD", arXiv 2604.02119.)

    Parameters
    ----------
    kernel
        (out, D), float64.
    total, halves
        Moments of all the data, and of its halves. The kernel goes as far as what each half asks for serves the other.
    groups
        Of the layer.

    Returns
    -------
    Tensor
        (out, D / groups).
    """
    return torch.cat([_adapted(start, parts) for start, parts in _by_group(kernel, (total, *halves), groups)])


def _by_group(
    kernel: Tensor, parts: Sequence[Moments], groups: int
) -> Iterator[tuple[Tensor, list[tuple[float, Tensor, Tensor]]]]:
    """For each group its kernel (out / groups, D / groups), and of each part its weight, second moment and cross."""
    size = kernel.shape[1] // groups
    for group, rows in enumerate(kernel.chunk(groups)):
        own = slice(group * size, (group + 1) * size)
        yield (
            rows[:, own],
            [(part.weight, part.second[own, own], part.cross.chunk(groups)[group][:, own]) for part in parts],
        )


def _adapted(start: Tensor, parts: Sequence[tuple[float, Tensor, Tensor]]) -> Tensor:
    """A kernel moved towards least squares, as far as what each half of the data asks for serves the other."""
    (_, second, cross), *halves = parts
    split = [(weight, moment) for weight, moment, _ in halves]
    root = shrunk_root(second, split)

    def change(own: Root, moment: Tensor, responses: Tensor) -> Tensor:
        step = torch.cholesky_solve((responses - start @ moment).T, own.root, upper=True).T
        return (1 - own.shrinkage) * step

    gain = curvature = 0.0
    for (_, moment, responses), (weight, other, wanted) in zip(halves, reversed(halves), strict=True):
        step = change(shrunk_root(moment, split, root.shrinkage), moment, responses)
        gain += weight * float((step * (wanted - start @ other)).sum())
        curvature += weight * float((step @ other * step).sum())
    trusted = min(1.0, max(0.0, gain / curvature)) if curvature > 0 else 0.0
    return start + trusted * change(root, second, cross)
