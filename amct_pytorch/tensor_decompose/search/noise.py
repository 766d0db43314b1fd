"""How far a score that is a mean over samples may be off by chance."""

from __future__ import annotations

import math

from ...errors import ConfigError, quoted


def score_range(original: float) -> float:
    """The largest score that is possible: 1 for shares, 100 for percents, which a score above 1 must be.

    Parameters
    ----------
    original
        The original model's score.

    Raises
    ------
    ConfigError
        It is neither.
    """
    if not 0 <= original <= 100:
        raise ConfigError(
            "samples: expected evaluate=… to return the share of the samples that are right, from 0 to 1, or in "
            f"percent, found {quoted(original)}: leave samples=… out for other scores"
        )
    return 1.0 if original <= 1 else 100.0


def standard_error_of_difference(score: float, other: float, samples: int, most: float) -> float:
    """The standard error of the difference between two scores, in their units.

    Both are taken for independent, each with the variance p·(1 − p)/n of a share p of n samples. As two models are
    mostly wrong about the same samples, the true error is smaller. For p stands (np + 1)/(n + 2), by Laplace's rule of
    succession: where all samples are right, one more might not have been.

    Parameters
    ----------
    score, other
        The two scores.
    samples
        Number of samples of each.
    most
        See `score_range`.
    """
    shares = [(samples * min(max(one / most, 0.0), 1.0) + 1) / (samples + 2) for one in (score, other)]
    return most * math.sqrt(sum(share * (1 - share) for share in shares) / samples)
