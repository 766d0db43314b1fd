"""Factors fitted to data: moments of a layer's input patches in, weights out. Float64 numbers on the CPU only.

With P the input patches of a layer (D = in·kh·kw numbers each), t its responses without bias, W' a kernel and
c' an intercept, the error of the response is the mean of ‖t − W'·P − c'‖². The best intercept is known, so
everything here works on moments that are centred already (or not, where a layer has no bias to correct).

The first factor comes from a whitened split, the last one from ridge-regularised least squares on top of it, and
then each once more with the other as it is. (X. Zhang, J. Zou, K. He, J. Sun, "Accelerating very deep convolutional
networks for classification and detection", TPAMI 2016, fit responses layer after layer; the split here is the
separable one, and the whitening of the inputs.) How much to trust the data is estimated from the data: the moments
come in two halves, from different images, and what one half fits the other judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.compose import ungrouped

# What the second moment is shrunk by at least: it bounds the condition, so that the root can be undone.
_LEAST_SHRINKAGE = 1e-4
# Ridges to choose from, in units of the mean variance of what the last convolution sees.
_RIDGES = tuple(10.0**exponent for exponent in range(-6, 3))
# Power iterations for an eigenvalue that is only reported.
_POWERS = 5
# Steps of conjugate gradients for the first factor. Few, as to stop early is what keeps it from overfitting.
_STEPS = 4


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

    def error(self, kernel: Tensor) -> float:
        """The mean of ‖t − W'·P‖² for a kernel W' of (out, D)."""
        return max(0.0, self.energy + float(((kernel @ self.second - 2 * self.cross) * kernel).sum()))


@dataclass(frozen=True)
class Root:
    """A square root of a second moment S that was shrunk: rootᵀ·root = (1 − γ)·S + γ·mean variance·I.

    Attributes
    ----------
    root
        (d, d), upper triangular, regular.
    shrinkage
        γ, from 0 to 1. At 1 the data say nothing.
    condition
        Of the shrunk moment: about its largest eigenvalue by its smallest.
    """

    root: Tensor
    shrinkage: float
    condition: float


def shrunk_root(total: Tensor, halves: Sequence[tuple[float, Tensor]], least: float = 0.0) -> Root:
    """A regular square root of the second moment, shrunk towards the identity as far as its halves disagree.

    O. Ledoit, M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004, where the
    sampling variance is estimated from the two halves, since neighbouring patches are no independent samples.
    The split of root·A is never worse for the unshrunk moment than the split of A itself, whatever γ < 1: a sum
    of that error and of A's own is least, and the split of A has the least error of A.

    Parameters
    ----------
    total
        S, (d, d).
    halves
        Weight and second moment (d, d) of each half.
    least
        What to shrink by at least, from 0 to 1: the share of the energy of the inputs that is to be noise.
    """
    size = len(total)
    variance = float(total.diagonal().mean())
    if variance <= 0 or not math.isfinite(variance):
        return Root(torch.eye(size, dtype=total.dtype, device="cpu"), 1.0, math.inf)
    identity = variance * torch.eye(size, dtype=total.dtype, device="cpu")
    (weight, one), (other_weight, other) = halves
    distance = float((total - identity).square().sum())
    disagreement = float((one - other).square().sum()) * weight * other_weight / (weight + other_weight) ** 2
    judged = min(weight, other_weight) > 0
    shrinkage = disagreement / distance if judged and distance > 0 else 1.0
    shrinkage = min(max(shrinkage, least, _LEAST_SHRINKAGE), 1.0)
    while True:
        shrunk = (1 - shrinkage) * total + shrinkage * identity
        lower, failed = torch.linalg.cholesky_ex(shrunk)
        if not failed or shrinkage == 1:
            break
        shrinkage = min(1.0, 10 * shrinkage)  # rounding has left it an eigenvalue below zero
    root = lower.mT.contiguous()
    largest = _largest_eigenvalue(lambda vector: shrunk @ vector, size)
    of_inverse = _largest_eigenvalue(lambda vector: torch.cholesky_solve(vector, root, upper=True), size)
    return Root(root, shrinkage, largest * of_inverse)


def _largest_eigenvalue(times: Callable[[Tensor], Tensor], size: int) -> float:
    """Of a symmetric matrix that is given by its products, to a few percent, by power iteration."""
    vector = torch.linspace(1, 2, size, dtype=torch.float64, device="cpu")[:, None]
    length = 1.0
    for _ in range(_POWERS):
        vector = times(vector)
        length = float(torch.linalg.vector_norm(vector))
        vector = vector / length
    return length


def seen_by_prefix(second: Tensor, offsets: Tensor) -> Tensor:
    """The second moment (d, d) of what the first stages see: the mean over the places of the later stages' kernel.

    Parameters
    ----------
    second
        (D, D), second moment of the whole patches.
    offsets
        (d, J); see `patch_offsets`.
    """
    total = second.new_zeros(len(offsets), len(offsets))
    for offset in offsets.unbind(1):
        total += second[offset[:, None], offset]
    return total / offsets.shape[1]


def patch_offsets(kernel_shape: Sequence[int], prefix_shape: Sequence[int]) -> Tensor:
    """Which numbers of a patch the first stages of a chain see at each place of the later stages' kernel.

    Parameters
    ----------
    kernel_shape
        (out, in, *kernel) of the layer, without groups.
    prefix_shape
        (R, in, *kernel) of the first stages together, without groups.

    Returns
    -------
    Tensor
        (d, J) indices into the D = in·kernel numbers of a patch: d = in·kernel of the prefix, J the number of places.
    """
    in_, *kernel = kernel_shape[1:]
    axes = len(kernel)
    windows = torch.arange(in_ * math.prod(kernel), device="cpu").reshape(in_, *kernel)
    for axis, size in enumerate(prefix_shape[2:], start=1):
        windows = windows.unfold(axis, size, 1)  # (in, *places, *kernel of the prefix)
    inside, places = range(1 + axes, 1 + 2 * axes), range(1, 1 + axes)
    return windows.permute(0, *inside, *places).reshape(in_ * math.prod(prefix_shape[2:]), -1)


def composed(prefix: Tensor, last: Tensor, offsets: Tensor) -> Tensor:
    """The kernel (out, D) of two stages (R, in, *kernel) and (out, R, *kernel) without groups, one after the other.

    Parameters
    ----------
    offsets
        (d, J) of the prefix; see `patch_offsets`.
    """
    kernel = prefix.new_zeros(len(last), int(offsets.max()) + 1)
    rows = prefix.flatten(1)
    for place, offset in zip(_places(last), offsets.unbind(1), strict=True):
        kernel[:, offset] += place @ rows
    return kernel


def _places(last: Tensor) -> tuple[Tensor, ...]:
    """The matrix (out, R) of a weight (out, R, *kernel) at every place of its kernel."""
    return last.reshape(*last.shape[:2], -1).unbind(2)


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
    """

    last: Tensor
    ridge: float
    expected: float


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
        (d, J) of the prefix; see `patch_offsets`.
    total, halves
        Moments of all the data, and of its halves.
    groups
        Of the last stage.
    """
    start = last.flatten(1)
    begin = total.error(composed(prefix, ungrouped(last, groups), offsets))
    if begin <= total.rounding or min(half.weight for half in halves) == 0:
        return Refit(last, math.inf, begin)
    problems = [_Problem.of(prefix, start, offsets, half, groups) for half in halves]
    weight = sum(half.weight for half in halves)
    ridges = (*_RIDGES, math.inf)
    errors = [0.0] * len(ridges)
    for fitted_on, other, half in zip(problems, reversed(problems), reversed(halves), strict=True):
        for index, change in enumerate(fitted_on.changes_on(other, ridges)):
            errors[index] += half.weight / weight * (other.begin + change)
    least = min(range(len(ridges)), key=errors.__getitem__)
    ridge = ridges[least]
    step = _Problem.of(prefix, start, offsets, total, groups).step(ridge)
    return Refit((start + step).reshape(last.shape), ridge, max(0.0, errors[least]))


@dataclass(frozen=True)
class _Block:
    """Least squares for the change of one group of the last factor, in the eigenbasis of what it sees (p numbers).

    Attributes
    ----------
    second
        (p, p), second moment of what the group sees; p = R / groups · J.
    left
        (out / groups, p), mean of what the start leaves of the response, times what the group sees.
    begin
        Error of the group at the start, less the energy of its responses.
    values, basis
        Eigenvalues (p,) of the standardised second moment, and its eigenvectors (p, p) in the units of the factor.
    """

    second: Tensor
    left: Tensor
    begin: float
    values: Tensor
    basis: Tensor

    @classmethod
    def of(cls, prefix: Tensor, start: Tensor, offsets: Tensor, moments: Moments, cross: Tensor) -> _Block:
        rows = prefix.flatten(1)
        images = torch.stack([rows @ moments.second[offset] for offset in offsets.unbind(1)], dim=1).flatten(0, 1)
        second = torch.stack([images[:, offset] @ rows.T for offset in offsets.unbind(1)], dim=2).flatten(1)
        cross = torch.stack([cross[:, offset] @ rows.T for offset in offsets.unbind(1)], dim=2).flatten(1)
        diagonal = second.diagonal()
        floor = 1e-12 * float(diagonal.mean()) + torch.finfo(second.dtype).tiny
        scale = diagonal.clamp_min(floor).rsqrt()
        values, vectors = torch.linalg.eigh(scale[:, None] * second * scale)
        begin = float(((start @ second - 2 * cross) * start).sum())
        return cls(second, cross - start @ second, begin, values.clamp_min(0), scale[:, None] * vectors)

    def step(self, ridge: float) -> Tensor:
        """The best change (out / groups, p) of the factor."""
        return (self.left @ self.basis) / (self.values + ridge) @ self.basis.T

    def changes_on(self, other: _Block, ridges: Sequence[float]) -> list[float]:
        """By how much this block's step at each ridge changes the error of the other block."""
        images = self.left @ self.basis
        linear = (images * (other.left @ self.basis)).sum(0)
        quadratic = (images.T @ images) * (self.basis.T @ other.second @ self.basis)
        steps = [1 / (self.values + ridge) for ridge in ridges]
        return [float(step @ quadratic @ step - 2 * linear @ step) for step in steps]


@dataclass(frozen=True)
class _Problem:
    """Least squares for the change of the last factor: a problem of its own for each of its groups."""

    blocks: tuple[_Block, ...]
    begin: float

    @classmethod
    def of(cls, prefix: Tensor, start: Tensor, offsets: Tensor, moments: Moments, groups: int) -> _Problem:
        blocks = tuple(
            _Block.of(rows, part, offsets, moments, cross)
            for rows, part, cross in zip(
                prefix.chunk(groups), start.chunk(groups), moments.cross.chunk(groups), strict=True
            )
        )
        return cls(blocks, max(0.0, moments.energy + sum(block.begin for block in blocks)))

    def step(self, ridge: float) -> Tensor:
        """The best change (out, p) of the last factor."""
        return torch.cat([block.step(ridge) for block in self.blocks])

    def changes_on(self, other: _Problem, ridges: Sequence[float]) -> list[float]:
        """By how much this problem's step at each ridge changes the error of the other problem."""
        changes = [block.changes_on(same, ridges) for block, same in zip(self.blocks, other.blocks, strict=True)]
        return [sum(change) for change in zip(*changes, strict=True)]


def improve_first(
    first: Tensor, tail: Tensor, offsets: Tensor, root: Tensor, total: Moments, halves: Sequence[Moments]
) -> Tensor:
    """The first factor moved towards least squares on the responses, with the stages behind it as they are.

    The error on these data never grows. It stays as it is where that does not carry over from one half of the
    data to the other.

    Parameters
    ----------
    first
        (R, in, *kernel), without groups, float64.
    tail
        Kernel (out, R, *kernel) of the stages behind it, without groups, float64.
    offsets
        (d, J) of the first stage; see `patch_offsets`.
    root
        (d, d); see `shrunk_root`. The better the data know a direction, the further it goes along it.
    total, halves
        Moments of all the data, and of its halves.
    """
    begin = total.error(composed(first, tail, offsets))
    if begin <= total.rounding or min(half.weight for half in halves) == 0:
        return first
    gain = sum(
        judging.weight * (judging.error(composed(first, tail, offsets)) - judging.error(composed(moved, tail, offsets)))
        for fitted_on, judging in zip(halves, reversed(halves), strict=True)
        for moved in [_descend(first, tail, offsets, root, fitted_on)]
    )
    return _descend(first, tail, offsets, root, total) if gain > 0 else first


def _descend(first: Tensor, tail: Tensor, offsets: Tensor, root: Tensor, moments: Moments) -> Tensor:
    """A few steps of conjugate gradients, preconditioned as if the places of the tail saw independent inputs."""
    places = list(zip(_places(tail), offsets.unbind(1), strict=True))
    inner = sum((place.T @ place for place, _ in places), first.new_zeros(len(first), len(first)))
    inner.diagonal().add_(1e-6 * float(inner.diagonal().mean()) + torch.finfo(inner.dtype).tiny)
    inner_root = torch.linalg.cholesky(inner)

    def on_first(of_kernel: Tensor) -> Tensor:
        return sum((place.T @ of_kernel[:, offset] for place, offset in places), torch.zeros_like(rows))

    def conditioned(gradient: Tensor) -> Tensor:
        return torch.cholesky_solve(torch.cholesky_solve(gradient, inner_root).T, root, upper=True).T

    rows = first.flatten(1)
    kernel = composed(first, tail, offsets)
    rest = on_first(moments.cross - kernel @ moments.second)
    direction = conditioned(rest)
    power = float((rest * direction).sum())
    step = direction
    for _ in range(_STEPS):
        image = on_first(composed(step.reshape(first.shape), tail, offsets) @ moments.second)
        curvature = float((step * image).sum())
        if not (power > 0 and curvature > 0):
            break
        rows = rows + power / curvature * step
        rest = rest - power / curvature * image
        direction = conditioned(rest)
        power, before = float((rest * direction).sum()), power
        step = direction + power / before * step
    return rows.reshape(first.shape)
