"""Which positions of a layer's response are looked at: evenly spread samples, the same ones every time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..methods.weight_group import WeightGroup
from ..model.spec import Positions
from .data import LayerMode
from .stage_kernels import first_stage_offsets

# Positions sampled for each unknown of the largest problem: of the first stage's patch, several of which lie at
# each position, or of the whole one. A half of them judges what the other half finds, so with few, least squares is
# trusted less than it might be, and in reconstruct it takes the noise of a layer's inputs for what they are like.
# 12 was better than 4 on a pretrained detector, and no worse on the digits network (tools/positions.py).
POSITIONS_PER_UNKNOWN: dict[LayerMode, float] = {"whiten": 2, "refit": 12, "reconstruct": 12}
# The least number of positions, which costs a small layer little.
_LEAST_POSITIONS = 2048
# Bytes of a response that is kept, in float32.
_BYTES_OF_A_NUMBER = 4


def positions_that_fit(
    groups: Sequence[WeightGroup], modes: Mapping[int, LayerMode], memory: int, *, keeping: bool
) -> dict[int, float]:
    """How many positions each fit is to sample, over all batches.

    Parameters
    ----------
    groups
        All weight groups of the model.
    modes
        By number of the group, how it is fitted.
    memory
        Bytes that the responses at these positions may take.
    keeping
        Whether those of all layers are kept until the layer is fitted. Where they would take more memory, all layers
        get the same share of the positions that they want, but never fewer than a small layer.
    """
    wanted = {index: _positions_wanted(groups[index], mode) for index, mode in modes.items()}
    needed = _BYTES_OF_A_NUMBER * sum(count * groups[index].spec.out_channels for index, count in wanted.items())
    share = memory / needed if keeping and needed > memory else 1.0
    return {index: max(share * count, _LEAST_POSITIONS) for index, count in wanted.items()}


def sample_positions(shape: Sequence[int], about: float, seed: int) -> Positions:
    """Positions of a response: all, or about as many as asked for, one from each of equal stretches.

    Parameters
    ----------
    shape
        Of the response, (N, out, *axes).
    about
        How many are wanted.
    seed
        The same seed gives the same positions.
    """
    items, _, *sizes = shape
    count = items * math.prod(sizes)
    if count <= about:
        flat = torch.arange(count, device="cpu")
    else:
        most = max(1, math.ceil(about))
        generator = torch.Generator("cpu").manual_seed(seed)
        within = torch.rand(most, generator=generator, dtype=torch.float32, device="cpu")
        flat = ((torch.arange(most, device="cpu") + within) * (count / most)).long()
        flat = flat.clamp_max(count - 1)
    places = []
    rest = flat
    for size in reversed(sizes):
        places.append(rest % size)
        rest = rest // size
    return Positions(rest, tuple(reversed(places)), count / max(1, len(flat)))


def halves_of(where: Positions, sizes: Sequence[int], batch: int) -> Tensor:
    """Which half of the data each position belongs to, False or True.

    Items go in turns, and a lone one is cut in two along its first axis.

    Parameters
    ----------
    where
        Positions in a response.
    sizes
        Of the response along its axes.
    batch
        Number of the batch, so that batches of one item go in turns too.
    """
    if not where.places or len(where.item) == 0 or int(where.item.max()) > 0:
        return (where.item + batch) % 2 == 1
    return ((where.places[0] >= sizes[0] / 2).long() + batch) % 2 == 1


def _positions_wanted(group: WeightGroup, mode: LayerMode) -> float:
    """How many positions a fit is to sample, over all batches, however many there are."""
    unknowns = len(first_stage_offsets(group)) if mode == "whiten" else group.spec.patch_size
    return max(POSITIONS_PER_UNKNOWN[mode] * unknowns, _LEAST_POSITIONS)
