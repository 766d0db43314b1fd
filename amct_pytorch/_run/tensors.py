"""What is asked of tensors everywhere: are they finite, in which precision to compute, have they changed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def is_finite(values: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in a tensor of any shape on any device; needs no copy of it."""
    if not values.numel():
        return True
    least, most = torch.aminmax(values.detach())
    return bool(torch.isfinite(least) & torch.isfinite(most))


def widened(values: Tensor) -> Tensor:
    """The tensor outside of autograd, in float64 where it is that, else in float32."""
    return values.detach() if values.dtype == torch.float64 else values.detach().float()


def checksum(tensors: Iterable[Tensor]) -> int:
    """A number that changes when the values, shapes, types or order of tensors do (CRC-32)."""
    total = 0
    for tensor in tensors:
        total = zlib.crc32(repr((tuple(tensor.shape), tensor.dtype)).encode(), total)
        values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if values.numel():
            total = zlib.crc32(values.reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def map_tensors(change: Callable[[Tensor], object], values: Any) -> Any:
    """The same structure of containers with every tensor in it changed."""
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, values)
