"""How far an error of a layer's response moves the outputs of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


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
        errors, outputs = np.array(sorted(self.measured)).T
        # A larger error that happened to move the outputs less is chance.
        outputs = np.maximum.accumulate(outputs)
        near = min(max(error, errors[0]), errors[-1])
        of_near = math.exp(np.interp(math.log(near), np.log(errors), np.log(outputs)))
        return of_near * error / float(near)


PROPORTIONAL = Influence(((1.0, 1.0),))
"""That of a layer of which nothing was measured: the outputs err as its response does."""
