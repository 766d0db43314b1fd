"""Whether the arguments of a search are of their types, and go together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast, get_args

from ..._run.arguments import check_choice, check_whole, setting_error
from ...errors import ConfigError, ConfigTypeError, quoted
from ..calibration.data import Calibration
from ..config import DecompositionConfig
from .result import Cost


def check_goal(evaluate: object, drop: object, minimise: object, example_inputs: object) -> None:
    """Check what is searched for.

    Raises
    ------
    ConfigTypeError, ConfigError
        The function, the drop, or what is to be least is wrong.
    """
    if not callable(evaluate):
        raise ConfigTypeError(
            f"evaluate must be a function of a model that returns its score, found {quoted(evaluate)}"
        )
    _check_number("drop", drop, "0 or more", above_zero=False)
    check_choice("minimise", minimise, get_args(Cost))
    if minimise != "parameters" and example_inputs is None:
        what = "MACs are counted" if minimise == "macs" else "the model is timed"
        raise ConfigError(f"minimise={minimise!r} needs example_inputs, on which {what}")


def check_plans(config: object, calibration: object) -> None:
    """Check how plans are to be made.

    Raises
    ------
    ConfigTypeError, ConfigError
        The config gives ranks, or the calibration batches can be gone through once only.
    """
    if config is not None and not isinstance(config, DecompositionConfig):
        raise ConfigTypeError(f"config must be a DecompositionConfig, found {quoted(config)}")
    if config is not None and config.gives_ranks:
        raise ConfigError(
            "config: the search chooses the ranks of all layers: leave out rank=… and rules with a rank; to keep a "
            "layer, give layers={name: False}"
        )
    if calibration is not None and not isinstance(calibration, Calibration):
        raise ConfigTypeError(
            f"calibration must be a Calibration, found {type(calibration).__name__}: Calibration(batches)"
        )
    if calibration is not None and isinstance(calibration.batches, Iterator):
        raise ConfigError(
            "calibration: a search goes over the batches for every plan, but "
            f"{type(calibration.batches).__name__} can be gone through once only: give a list or a DataLoader"
        )


def check_limits(samples: object, minutes: object, evaluations: object) -> None:
    """Check how much may be evaluated.

    Raises
    ------
    ConfigTypeError, ConfigError
        A number is wrong.
    """
    check_whole("evaluations", evaluations, least=2)  # the original, and a plan
    if samples is not None:
        check_whole("samples", samples)
    if minutes is not None:
        _check_number("minutes", minutes, "above 0", above_zero=True)


def _check_number(called: str, value: object, range_: str, *, above_zero: bool) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    number = cast(float, value)
    if not is_number or not 0 <= number < math.inf or (above_zero and number == 0):
        raise setting_error(
            f"{called} must be a finite number, {range_}, found {quoted(value)}", of_right_type=is_number
        )
