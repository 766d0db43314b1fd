"""How many singular terms to keep: numbers in, a number out.

The estimate is empirical variational Bayes matrix factorisation (EVBMF) with the closed-form threshold of
S. Nakajima, M. Sugiyama, S. D. Babacan, R. Tomioka, "Global analytic solution of fully-observed variational
Bayesian matrix factorization", JMLR 14 (2013), applied to convolutions first by Y.-D. Kim et al. (ICLR 2016).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Singulars = NDArray[np.float64]
"""All singular values of a matrix, in descending order, in float64."""

_NOISE_TOLERANCE = 1e-5
_NOISE_STEPS = 500


def evbmf_rank(singulars: Singulars, columns: int) -> int:
    """Number of singular terms that stand out of the noise, by EVBMF.

    Parameters
    ----------
    singulars
        All L singular values of a matrix (L, columns) with L <= columns, in descending order.
    columns
        The larger side M of the matrix.

    Returns
    -------
    int
        Between 0 and L.

    Notes
    -----
    The noise variance minimises the free energy by bounded Brent search with an *absolute* tolerance, so
    the result depends on the scale of the matrix: small weights get a coarser answer. That is the
    behaviour of Huawei AMCT, kept for parity.
    """
    rows = len(singulars)
    if singulars[0] > 1e100:  # its square may overflow, and the tolerance is nothing to it
        singulars = singulars / singulars[0]
    energy = singulars**2
    if not energy.any():
        return 0
    alpha = rows / columns
    tau = 2.5129 * math.sqrt(alpha)
    edge = (1 + tau) * (1 + alpha / tau)
    tail = min(math.ceil(rows / (1 + alpha)) - 1, rows) - 1
    upper = energy.sum() / (rows * columns)
    lower = max(energy[tail + 1] / (columns * edge), energy[tail:].mean() / columns)
    variance = (lower + upper) / 2 if lower > upper else _least_free_energy(energy, columns, edge, lower, upper)
    return int(np.count_nonzero(energy > columns * variance * edge))


def _least_free_energy(energy: NDArray[np.float64], columns: int, edge: float, lower: float, upper: float) -> float:
    """The noise variance between lower and upper of least EVB free energy."""
    from scipy.optimize import minimize_scalar  # slow to import, and needed only here

    alpha = len(energy) / columns
    # log 0 would be minus infinity for every variance alike: the floor only shifts the free energy.
    energy = np.maximum(energy, np.finfo(np.float64).tiny / np.finfo(np.float64).eps)

    def free_energy(variance: float) -> float:
        z = energy / (columns * variance)
        signal, noise = z[z > edge], z[z <= edge]
        excess = signal - (1 + alpha)
        t = (excess + np.sqrt(excess**2 - 4 * alpha)) / 2
        return float(
            (noise - np.log(noise)).sum()
            + (signal - t).sum()
            + np.log((t + 1) / signal).sum()
            + alpha * np.log(t / alpha + 1).sum()
        )

    found = minimize_scalar(
        free_energy,
        bounds=(lower, upper),
        method="bounded",
        options={"xatol": _NOISE_TOLERANCE, "maxiter": _NOISE_STEPS},
    )
    return float(found.x)


def clamp_to_window(rank: int, full_rank: int, channels: int) -> int:
    """Clamp an estimated rank to the window of the separable split.

    Parameters
    ----------
    rank
        The estimate.
    full_rank
        The smaller side L of the matricised kernel.
    channels
        min(in_channels, out_channels).
    """
    divisor = 4 if channels >= 256 else 6
    return min(max(rank, full_rank // (divisor + 1)), full_rank // divisor)


def round_rank(rank: int, multiple: int, full_rank: int) -> int:
    """The multiple nearest to rank, one more where that loses over a tenth of it; never above full_rank."""
    rounded = max(multiple, (rank + multiple // 2) // multiple * multiple)
    if rounded < 0.9 * rank:
        rounded += multiple
    return min(rounded, full_rank)


def energy_rank(singulars: Singulars, share: float) -> int:
    """The least number of leading terms that hold this share of the sum of squared singular values."""
    if singulars[0] == 0:
        return 0
    held = np.cumsum((singulars / singulars[0]) ** 2)
    # The last partial sum may fall a rounding error short of the whole.
    return min(int(np.searchsorted(held, share * held[-1])) + 1, len(singulars))
