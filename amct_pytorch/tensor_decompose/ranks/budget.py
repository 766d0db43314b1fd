"""A budget of the whole model, instead of ranks for each layer."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ..._run.arguments import check_share
from ...errors import ConfigError, quoted


@dataclass(frozen=True)
class Budget:
    """How much of the model may be left, or how much its outputs may change: exactly one of these.

    Methods, ranks, and which layers are decomposed at all are chosen together, so that the expected damage is least
    within the budget, or, with ``damage``, so that as much as possible is saved. It is exceeded only where calibration
    in mode reconstruct finds that no input reaches a layer any more once those before it are decomposed: such a layer
    is kept, with a warning.

    Parameters
    ----------
    macs
        Multiply-accumulates after, as a share of those before: above 0, at most 1. Counted are all layers that the
        methods in use are for, kept ones too, on the example inputs, which it needs.
    parameters
        Parameters of the whole model after, as a share of those before.
    damage
        Expected relative error of the outputs: the root of the sum of the squares of the damages of all layers. That
        of a layer is, without calibration, the relative error of its weight, which says little about the outputs; with
        calibration, the relative error of the outputs that errors of its response cause, measured at two ranks.
        MACs are saved where example inputs are given, else parameters.

    Raises
    ------
    ConfigError, ConfigTypeError
        None or several are given, or one is not above 0 and at most 1.
    """

    macs: float | None = None
    parameters: float | None = None
    damage: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if len(given) != 1:
            found = ", ".join(f"{name}={quoted(value)}" for name, value in given.items()) or "none"
            raise ConfigError(f"a Budget takes exactly one of macs, parameters and damage, found {found}")
        for name, value in given.items():
            check_share(name, value)

    def __str__(self) -> str:
        name, value = self.limit
        return f"{name}={value:g}"

    @property
    def limit(self) -> tuple[str, float]:
        """Which of the three it is, and its value."""
        return next((name, value) for name, value in dataclasses.asdict(self).items() if value is not None)


def most_within(share: float, total: int) -> int:
    """The largest number that is no more than this share of a total, as the quotient of the two says it."""
    most = math.floor(share * total)
    return most + 1 if (most + 1) / max(total, 1) <= share else most
