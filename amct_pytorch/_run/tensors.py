"""Small functions on tensors that many modules need: finiteness, precision, checksums, nested structures."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

# Entries in this range have squares whose sums neither under- nor overflow in float32, however many they are.
_SAFE = (2.0**-30, 2.0**30)


def is_finite(values: Tensor) -> bool:
    """Whether a tensor contains neither NaN nor infinity; allocates no copy.

    Parameters
    ----------
    values
        A real tensor of any shape on any device.
    """
    if not values.numel():
        return True
    least, most = torch.aminmax(values.detach())
    return bool(torch.isfinite(least) & torch.isfinite(most))


def widened(values: Tensor) -> Tensor:
    """The tensor without gradients, in float32; float64 is kept.

    Parameters
    ----------
    values
        A floating-point tensor.
    """
    return values.detach() if values.dtype == torch.float64 else values.detach().float()


def safe_scale(values: Tensor) -> float:
    """What to divide a finite tensor by so that squares of its entries, and their sums, neither under- nor overflow.

    A power of four near the largest entry where that is needed, so that dividing by it or its root is exact; else 1.
    """
    if not values.numel():
        return 1.0
    least, most = torch.aminmax(values.detach())
    largest = max(float(most), -float(least))
    if largest == 0 or _SAFE[0] < largest < _SAFE[1]:
        return 1.0
    return 4.0 ** ((math.frexp(largest)[1] - 1) // 2)


def checksum(tensors: Iterable[Tensor]) -> int:
    """CRC-32 over the values, shapes, types and order of tensors.

    Parameters
    ----------
    tensors
        On any device and of any layout; of those without values, on the meta device, shape and type count.
    """
    total = 0
    for tensor in _plain(tensors):
        total = zlib.crc32(repr((tuple(tensor.shape), tensor.dtype)).encode(), total)
        if tensor.is_meta:
            continue
        values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if values.numel():
            total = zlib.crc32(values.reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def _plain(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors, with those of another layout laid out densely, and the parts of nested ones by themselves."""
    for tensor in tensors:
        if tensor.is_nested:
            yield from tensor.unbind()
        else:
            yield tensor if tensor.layout is torch.strided else tensor.to_dense()


def map_tensors(change: Callable[[Tensor], object], values: Any) -> Any:
    """A structure of containers with a function applied to every tensor.

    Parameters
    ----------
    change
        The function.
    values
        Tensors and other objects in any structure of containers; the others are kept.
    """
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, values)
