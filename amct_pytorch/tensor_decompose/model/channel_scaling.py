"""Whether a weight is another one whose output channels were scaled, as folding a BatchNorm scales them."""

from __future__ import annotations

import torch
from torch import Tensor

# ‖weight − factor · kernel‖ / ‖weight‖ up to which a channel counts as scaled. In half precision the sum over the rank
# is taken in float32, so one spacing of the numbers covers all rounding; in single and double the sum rounds too.
_TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def channel_factors(weight: Tensor, kernel: Tensor) -> Tensor | None:
    """The factor of each output channel that leads from a kernel to a weight.

    Parameters
    ----------
    weight, kernel
        (out, in, *kernel) each, of one floating-point dtype.

    Returns
    -------
    Tensor or None
        (out,) in float64 on the CPU, 1 where both are zero; None if the weight is anything else than the scaled kernel.
    """
    new, old = (tensor.detach().cpu().double().flatten(1) for tensor in (weight, kernel))
    energy = old.square().sum(1)
    factors = torch.where(energy > 0, (new * old).sum(1) / energy, 1.0)
    left = torch.linalg.vector_norm(new - factors[:, None] * old, dim=1)
    # So that NaN and infinity count as anything else.
    explained = left <= _TOLERANCES[kernel.dtype] * torch.linalg.vector_norm(new, dim=1)
    return factors if bool(explained.all()) and bool(factors.isfinite().all()) else None
