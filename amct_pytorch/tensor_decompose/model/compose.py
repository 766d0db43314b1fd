"""The kernel that convolutions one after the other amount to.

On every spatial axis one stage of a chain at most has a kernel; the others are pointwise there. So the kernels of
the stages multiply axis by axis, and strides, padding and dilation stay with the stage whose axis it is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..._run.tensors import safe_scale
from .spec import LayerSpec


def composed_weight(weights: Sequence[Tensor], stages: Sequence[LayerSpec], groups: int = 1) -> Tensor:
    """The weight of the one layer that computes what a chain computes. Gradients flow through it.

    Parameters
    ----------
    weights
        Those of the stages, in order: (out, in / groups, *kernel) each.
    stages
        Their geometry.
    groups
        Of the layer that the chain stands in for.

    Returns
    -------
    Tensor
        (out, in / groups, *kernel).

    Raises
    ------
    ValueError
        Two stages have a kernel on the same axis.
    """
    kernels = [ungrouped(weight, stage.groups) for weight, stage in zip(weights, stages, strict=True)]
    kernel = functools.reduce(_compose, kernels)
    return kernel if groups == 1 else _blocks(kernel, groups)


def ungrouped(weight: Tensor, groups: int) -> Tensor:
    """The weight (out, in, *kernel) of the layer without groups that computes the same, zero between the groups."""
    if groups == 1:
        return weight
    blocks = weight.reshape(groups, -1, *weight.shape[1:])  # (groups, out / groups, in / groups, *kernel)
    own = torch.eye(groups, dtype=weight.dtype, device=weight.device)
    apart = torch.einsum("goi...,gh->gohi...", blocks, own)
    return apart.reshape(len(weight), groups * weight.shape[1], *weight.shape[2:])


def relative_error(found: Tensor, exact: Tensor) -> float:
    """‖found − exact‖ / ‖exact‖ in the Frobenius norm, and 0 where exact is 0."""
    length = float(torch.linalg.vector_norm(exact))
    return float(torch.linalg.vector_norm(found - exact)) / length if length else 0.0


def error_of_chain(
    weights: Sequence[Tensor], stages: Sequence[LayerSpec], weight: Tensor, groups: int = 1, at_once: int = 2**22
) -> float:
    """Relative error in the Frobenius norm of the kernel of a chain.

    Parameters
    ----------
    weights, stages
        As for `composed_weight`.
    weight
        That of the original layer.
    groups
        Of the original layer.
    at_once
        About how many numbers of the kernel are composed at a time, so that no second kernel lies in memory.
    """
    last = stages[-1]
    scale = safe_scale(weight)
    if scale != 1:
        weight, weights = weight / scale, [*weights[:-1], weights[-1] / scale]
    if groups > 1 or last.groups > 1:
        return relative_error(composed_weight(weights, stages, groups), weight)
    before = [ungrouped(kernel, stage.groups) for kernel, stage in zip(weights[:-1], stages[:-1], strict=True)]
    prefix = functools.reduce(_compose, before) if before else None
    lost = total = 0.0
    step = max(1, at_once // max(1, math.prod(weight.shape[1:])))
    for part, exact in zip(weights[-1].split(step), weight.split(step), strict=True):
        kernel = part if prefix is None else _compose(prefix, part)
        lost += float(torch.linalg.vector_norm(kernel - exact)) ** 2
        total += float(torch.linalg.vector_norm(exact)) ** 2
    return math.sqrt(lost / total) if total else 0.0


def _compose(first: Tensor, last: Tensor) -> Tensor:
    """Kernel of two layers one after the other, (R, in, *kernel) and (out, R, *kernel)."""
    axes = first.dim() - 2
    if any(a != 1 and b != 1 for a, b in zip(first.shape[2:], last.shape[2:], strict=True)):
        raise ValueError(
            f"expected stages with kernels on different axes, found {tuple(first.shape[2:])} and "
            f"{tuple(last.shape[2:])}"
        )
    product: Tensor = torch.tensordot(last, first, dims=([1], [0]))  # (out, *last's kernel, in, *first's kernel)
    order = [
        0,
        axes + 1,
        *(axis for pair in zip(range(axes + 2, 2 * axes + 2), range(1, axes + 1), strict=True) for axis in pair),
    ]
    sizes = [a * b for a, b in zip(first.shape[2:], last.shape[2:], strict=True)]
    return product.permute(order).reshape(len(last), first.shape[1], *sizes)


def _blocks(kernel: Tensor, groups: int) -> Tensor:
    """The blocks on the diagonal of a kernel (out, in, *kernel), as the weight of a grouped layer."""
    out, in_ = kernel.shape[0] // groups, kernel.shape[1] // groups
    parts = kernel.reshape(groups, out, groups, in_, *kernel.shape[2:])
    return torch.stack([parts[index, :, index] for index in range(groups)]).flatten(0, 1)
