"""The kernels of a chain's first stages and of its later ones, on the patches of the layer that it stands in for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..methods.weight_group import WeightGroup
from ..model.spec import LayerSpec


def prefix_offsets(layer: LayerSpec, prefix: Sequence[LayerSpec]) -> Tensor:
    """Which values of a patch the first stages of a chain see at each place of the later stages' kernel.

    Parameters
    ----------
    layer
        Geometry of the layer that the chain stands in for.
    prefix
        Geometry of the first stages.

    Returns
    -------
    Tensor
        (d, J) indices into the D = in·kernel values of a patch: d = in·kernel of the prefix, J the number of places.
    """
    kernel = [max(sizes) for sizes in zip(*(stage.kernel_size for stage in prefix), strict=True)]
    windows = torch.arange(layer.patch_size, device="cpu").reshape(layer.in_channels, *layer.kernel_size)
    for axis, size in enumerate(kernel, start=1):
        windows = windows.unfold(axis, size, 1)  # (in, *places, *kernel of the prefix)
    inside, places = range(1 + layer.axes, 1 + 2 * layer.axes), range(1, 1 + layer.axes)
    return windows.permute(0, *inside, *places).reshape(layer.in_channels * math.prod(kernel), -1)


def first_stage_offsets(group: WeightGroup) -> Tensor:
    """Which values of a patch the first stage sees, (d, J), at any ranks; see `prefix_offsets`.

    All, (D, 1), where the method is still to be chosen.
    """
    if len(group.by_method) > 1:
        return torch.arange(group.spec.patch_size, device="cpu")[:, None]
    smallest = (1,) * len(group.method.full_ranks(group.spec))
    return prefix_offsets(group.spec, group.stages(smallest)[:1])


def places_at(offsets: Tensor) -> list[slice | Tensor]:
    """What selects the values of a patch (D,) that the first stages see at each of the J places: (d,) of them.

    A slice where they are evenly spaced, so that nothing is copied.

    Parameters
    ----------
    offsets
        (d, J); see `prefix_offsets`.
    """
    steps = {int(step) for step in offsets.diff(dim=0).unique()}
    if len(steps) != 1:
        return [*offsets.unbind(1)]
    (step,) = steps
    return [slice(int(first), int(last) + 1, step) for first, last in zip(offsets[0], offsets[-1], strict=True)]


def seen_by_prefix(second: Tensor, offsets: Tensor) -> Tensor:
    """The second moment (d, d) of what the first stages see: the mean over the places of the later stages' kernel.

    Parameters
    ----------
    second
        (D, D), second moment of the whole patches.
    offsets
        (d, J); see `prefix_offsets`.
    """
    if offsets.shape[1] == 1 and len(offsets) == len(second):
        return second  # it is that of the whole patches in their own order
    total = second.new_zeros(len(offsets), len(offsets))
    for place in places_at(offsets):
        total += second[place][:, place]
    return total / offsets.shape[1]


def onto_places(prefix: Tensor, kernel: Tensor, offsets: Tensor) -> Tensor:
    """What a kernel (n, D) is by the responses of the first stages: (n, R·J), the transpose of composing with them.

    Parameters
    ----------
    prefix
        (R, in, *kernel), without groups.
    offsets
        (d, J) of the prefix; see `prefix_offsets`.
    """
    rows = prefix.flatten(1)
    return torch.stack([kernel[:, place] @ rows.T for place in places_at(offsets)], dim=2).flatten(1)


def seen_through(prefix: Tensor, second: Tensor, offsets: Tensor) -> Tensor:
    """The second moment (R·J, R·J) of the responses of the first stages at all J places that the next one sees.

    Parameters
    ----------
    prefix
        (R, in, *kernel), without groups.
    second
        (D, D), second moment of the patches.
    offsets
        (d, J) of the prefix; see `prefix_offsets`.
    """
    rows = prefix.flatten(1)
    images = torch.stack([rows @ second[place] for place in places_at(offsets)], dim=1).flatten(0, 1)
    return onto_places(prefix, images, offsets)


def places_of(last: Tensor) -> tuple[Tensor, ...]:
    """The matrix (out, R) of a weight (out, R, *kernel) at every place of its kernel."""
    return last.reshape(*last.shape[:2], -1).unbind(2)
