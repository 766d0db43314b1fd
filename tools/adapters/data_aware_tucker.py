"""The published bar: Tucker-2 by alternating least squares in the norm of the inputs' second moment.

arXiv 2511.04494, written here on tensorly, which gives the start. Ranks are one share of the full ranks for all layers,
and every layer is fitted to the inputs that reach it in the original.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import tensorly
import torch
from scipy.sparse.linalg import LinearOperator, cg
from tensorly.decomposition import partial_tucker
from torch import Tensor, nn
from torch.nn import functional

from .task import Task, largest_within, replace

_SWEEPS = 15
"""Most sweeps over the factors."""

_SETTLED = 1e-3
"""Relative fall of the error in a sweep, below which the factors are taken to have settled."""


def decompose(task: Task) -> nn.Module:
    """Every convolution with a spatial kernel that it makes cheaper."""

    def macs(share: float) -> float:
        found = copy.deepcopy(task.network)
        for name, layer in task.convolutions():
            if (ranks := _ranks(layer, share)) is not None:
                replace(found, name, _chain(layer, *ranks))
        return task.macs(found)

    share = largest_within(macs, task.share)
    split = {name: layer for name, layer in task.convolutions() if _ranks(layer, share) is not None}
    moments = _second_moments(task, split)
    for name, layer in split.items():
        ranks = _ranks(layer, share)
        assert ranks is not None
        chain = _chain(layer, *ranks)
        last, core, first = _factors(layer.weight.detach().double(), moments[name], ranks)
        weights = {"0.weight": first.T[..., None, None], "1.weight": core, "2.weight": last[..., None, None]}
        chain.load_state_dict(weights if layer.bias is None else {**weights, "2.bias": layer.bias})
        replace(task.network, name, chain)
    return task.network


def _ranks(layer: nn.Conv2d, share: float) -> tuple[int, int] | None:
    """Ranks of the outputs and inputs at a share of the full ones; None if the chain would have no fewer weights."""
    outputs, inputs = (max(1, int(share * channels)) for channels in (layer.out_channels, layer.in_channels))
    after = inputs * layer.in_channels + inputs * outputs * math.prod(layer.kernel_size) + outputs * layer.out_channels
    return (outputs, inputs) if after < layer.weight.numel() else None


def _chain(layer: nn.Conv2d, outputs: int, inputs: int) -> nn.Sequential:
    """1×1, k×k and 1×1 convolutions of these ranks, not yet with their weights."""
    geometry: dict[str, Any] = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    core = nn.Conv2d(inputs, outputs, **geometry, bias=False)
    first = nn.Conv2d(layer.in_channels, inputs, 1, bias=False)
    return nn.Sequential(first, core, nn.Conv2d(outputs, layer.out_channels, 1, bias=layer.bias is not None)).eval()


def _second_moments(task: Task, layers: dict[str, nn.Conv2d]) -> dict[str, Tensor]:
    """For each layer that of its patches (channels · kernel, squared)."""
    found: dict[str, Tensor] = {}

    def add(name: str, layer: nn.Conv2d, arrived: Tensor) -> None:
        assert not isinstance(layer.padding, str)
        patches = functional.unfold(arrived, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        patches = patches.transpose(0, 1).flatten(1)
        found[name] = found.get(name, 0) + (patches @ patches.T).double()

    hooks = [
        layer.register_forward_pre_hook(lambda layer, given, name=name: add(name, layer, given[0]))
        for name, layer in layers.items()
    ]
    task.outputs(task.network)
    for hook in hooks:
        hook.remove()
    return found


def _factors(weight: Tensor, moment: Tensor, ranks: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Last factor (outputs, rank), core (ranks, kernel) and first (inputs, rank), in turn until the error settles.

    Parameters
    ----------
    weight
        (outputs, inputs, height, width), float64.
    moment
        Second moment of the patches.
    ranks
        Of the outputs and of the inputs.
    """
    outputs, inputs, *kernel = weight.shape
    area = math.prod(kernel)
    # Of the scale of one, and regular: few inputs leave directions empty.
    moment = moment / moment.diagonal().mean() + 1e-6 * torch.eye(len(moment), dtype=moment.dtype)
    blocks = moment.reshape(inputs, area, inputs, area)
    crossed = (weight.flatten(1) @ moment).reshape(outputs, inputs, area)
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        (_, (last, first)), _ = partial_tucker(weight, rank=list(ranks), modes=[0, 1])
    energy = float((crossed * weight.flatten(2)).sum())
    before = math.inf
    for _ in range(_SWEEPS):
        # The outputs' factor and the core: a reduced-rank regression on what the first factor lets through.
        passed = torch.einsum("ir,ikjl,js->rksl", first, blocks, first).flatten(2).flatten(0, 1)
        sought = torch.einsum("oik,ir->ork", crossed, first).flatten(1)
        best = torch.linalg.solve(passed, sought.T).T
        _, vectors = torch.linalg.eigh(best @ sought.T)  # ascending
        last = vectors[:, -ranks[0] :]
        core = (last.T @ best).reshape(ranks[0], ranks[1], area)
        left = energy - float((last.T @ sought).flatten() @ core.flatten())
        if before - left < _SETTLED * left:
            break
        before = left
        first = _first_factor(first, core, blocks, torch.einsum("oik,oa->aik", crossed, last))
    return last, core.reshape(*ranks, *kernel), first


def _first_factor(first: Tensor, core: Tensor, blocks: Tensor, crossed: Tensor) -> Tensor:
    """The inputs' factor by least squares, the others fixed, with conjugate gradients from where it is."""

    def normal(flat: np.ndarray) -> np.ndarray:
        tried = torch.from_numpy(flat).reshape(first.shape)
        passed = torch.einsum("js,asl->ajl", tried, core)
        moved = torch.einsum("ikjl,ajl->aik", blocks, passed)
        return torch.einsum("aik,ark->ir", moved, core).flatten().numpy()

    size = first.numel()
    right = torch.einsum("aik,ark->ir", crossed, core).flatten().numpy()
    operator = LinearOperator((size, size), matvec=normal, dtype=np.float64)
    found, _ = cg(operator, right, x0=first.flatten().numpy(), rtol=1e-4, maxiter=30)
    return torch.from_numpy(found).reshape(first.shape)
