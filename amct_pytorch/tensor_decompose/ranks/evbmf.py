"""The rank that empirical variational Bayes matrix factorisation finds: numbers in, a number out.

The estimate is empirical variational Bayes matrix factorisation (EVBMF) with the closed-form threshold of
S. Nakajima, M. Sugiyama, S. D. Babacan, R. Tomioka, "Global analytic solution of fully-observed variational
Bayesian matrix factorization", JMLR 14 (2013), applied to convolutions first by Y.-D. Kim et al. (ICLR 2016).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .spectrum import Singulars

# Of the search for the noise variance, in units of that variance, and its most steps: AMCT's, which ranks depend on.
_NOISE_TOLERANCE = 1e-5
_NOISE_STEPS = 500
# The closed form of the threshold in Nakajima et al., an approximation for large matrices.
_THRESHOLD = 2.5129
# Singular values beyond this may overflow when squared, and the tolerance is nothing compared with them.
_HUGE = 1e100


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
    if singulars[0] > _HUGE:
        singulars = singulars / singulars[0]
    energy = singulars**2
    if not energy.any():
        return 0
    alpha = rows / columns
    tau = _THRESHOLD * math.sqrt(alpha)
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
        z = np.maximum(energy / (columns * variance), np.finfo(np.float64).tiny)  # it may underflow, as the energy may
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
