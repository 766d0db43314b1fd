"""Checks of arguments that many functions share: a wrong type is a TypeError too, a wrong value a ValueError."""

from __future__ import annotations

from ..errors import ConfigError, ConfigTypeError


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
    message = f"{called} must be a whole number from {least} on, found {value!r}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigTypeError(message)
    if value < least:
        raise ConfigError(message)


def check_share(called: str, value: object) -> None:
    """Check that an argument is a number above 0 and up to 1.

    Raises
    ------
    ConfigTypeError, ConfigError
        It is not.
    """
    message = f"{called} must be a number above 0 and up to 1, found {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigTypeError(message)
    if not 0 < value <= 1:
        raise ConfigError(message)


def check_flag(called: str, value: object) -> None:
    """Check that an argument is True or False.

    Raises
    ------
    ConfigTypeError
        It is not.
    """
    if not isinstance(value, bool):
        raise ConfigTypeError(f"{called} must be True or False, found {value!r}")
