"""Checks of arguments that many functions share: a wrong type is a TypeError too, a wrong value a ValueError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ..errors import ConfigError, ConfigTypeError


def setting_error(message: str, *, of_right_type: bool) -> ConfigError:
    """The error for a setting of a wrong value, or of a wrong type."""
    return ConfigError(message) if of_right_type else ConfigTypeError(message)


def is_whole(value: object) -> bool:
    """Whether this is an integer, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_whole(called: str, value: object, least: int = 1) -> None:
    """Check that an argument is a whole number, and large enough.

    Parameters
    ----------
    called
        What the user knows it as.
    least
        The smallest that is allowed.

    Raises
    ------
    ConfigTypeError, ConfigError
        It is not.
    """
    if not is_whole(value) or cast(int, value) < least:
        raise setting_error(
            f"{called} must be a whole number from {least} on, found {value!r}", of_right_type=is_whole(value)
        )


def check_share(called: str, value: object) -> None:
    """Check that an argument is a number above 0 and up to 1.

    Raises
    ------
    ConfigTypeError, ConfigError
        It is not.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < cast(float, value) <= 1:
        raise setting_error(f"{called} must be a number above 0 and up to 1, found {value!r}", of_right_type=is_number)


def check_flag(called: str, value: object) -> None:
    """Check that an argument is True or False.

    Raises
    ------
    ConfigTypeError
        It is not.
    """
    if not isinstance(value, bool):
        raise ConfigTypeError(f"{called} must be True or False, found {value!r}")


def check_choice(called: str, value: object, choices: Sequence[str]) -> None:
    """Check that an argument is one of some words.

    Raises
    ------
    ConfigTypeError, ConfigError
        It is not.
    """
    if value not in choices:
        raise setting_error(
            f"{called} must be one of {', '.join(map(repr, choices))}, found {value!r}",
            of_right_type=isinstance(value, str),
        )
