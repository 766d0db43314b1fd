"""How far an error of a layer's response moves the outputs of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Influence:
    """Relative errors of the outputs by relative errors of one layer's response, as they were measured.

    Between two measurements it is interpolated on logarithmic scales. Beyond them nothing is known, and outputs are
    taken to err in proportion.

    Attributes
    ----------
    measured
        Pairs of the error of the response and that of the outputs, all above zero.
    """

    measured: tuple[tuple[float, float], ...]

    def damage(self, error: float) -> float:
        """The relative error of the outputs to expect.

        Parameters
        ----------
        error
            Relative error of the response.
        """
        if error <= 0:
            return 0.0
        points = sorted(self.measured)
        (low, of_low), (high, of_high) = points[0], points[-1]
        if error <= low or low == high:
            return error * of_low / low
        if error >= high:
            return error * of_high / high
        share = math.log(error / low) / math.log(high / low)
        return of_low * math.exp(share * math.log(of_high / of_low))


PROPORTIONAL = Influence(((1.0, 1.0),))
"""That of a layer of which nothing was measured: the outputs err as its response does."""
