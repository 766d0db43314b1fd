"""A relative error by another, known at a few: of outputs by that of a response, of a response after the fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ErrorCurve:
    """Relative errors by other relative errors, as they were measured.

    Between two measurements it is interpolated on logarithmic scales. Beyond them nothing is known, and the one is
    taken to be in proportion to the other.

    Attributes
    ----------
    measured
        Pairs of the error that is given and the one that comes of it, all above zero.
    """

    measured: tuple[tuple[float, float], ...]

    def at(self, error: float) -> float:
        """The relative error to expect for one that is given."""
        if error <= 0:
            return 0.0
        given, found = np.array(sorted(self.measured)).T
        # That a larger error happened to come to less is chance.
        found = np.maximum.accumulate(found)
        near = min(max(error, given[0]), given[-1])
        of_near = math.exp(np.interp(math.log(near), np.log(given), np.log(found)))
        return of_near * error / float(near)


PROPORTIONAL = ErrorCurve(((1.0, 1.0),))
"""Where nothing was measured: the one error is taken to be the other."""
