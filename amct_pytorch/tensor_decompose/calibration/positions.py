"""Which positions of a layer's response are looked at: evenly spread samples, the same ones every time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..methods.weight_group import WeightGroup
from ..model.spec import Positions
from .data import Mode
from .stage_kernels import first_stage_offsets

# Positions sampled for each unknown of the largest problem: of the first stage's patch, several of which lie at
# each position, or of the whole one.
POSITIONS_PER_UNKNOWN: dict[Mode, float] = {"whiten": 2, "refit": 4, "reconstruct": 4}
# The least number of positions, which costs a small layer little.
_LEAST_POSITIONS = 2048


def positions_wanted(group: WeightGroup, mode: Mode) -> float:
    """How many positions of the layer's responses a fit is to sample, over all batches."""
    unknowns = len(first_stage_offsets(group)) if mode == "whiten" else group.spec.patch_size
    return max(POSITIONS_PER_UNKNOWN[mode] * unknowns, _LEAST_POSITIONS)


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
