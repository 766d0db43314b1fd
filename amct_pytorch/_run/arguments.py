"""Argument checks shared by many functions: a wrong type raises a TypeError, a wrong value a ValueError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ..errors import ConfigError, ConfigTypeError, quoted


def setting_error(message: str, *, of_right_type: bool) -> ConfigError:
    """The error for a setting: `ConfigError` for a wrong value, `ConfigTypeError` for a wrong type.

    Parameters
    ----------
    message
        What was expected and what was found.
    of_right_type
        Whether the type is right, so that the value must be wrong.
    """
    return ConfigError(message) if of_right_type else ConfigTypeError(message)


def is_whole(value: object) -> bool:
    """Whether a value is an integer, and not a bool.

    Parameters
    ----------
    value
        Any object.
    """
    return isinstance(value, int) and not isinstance(value, bool)


def check_whole(called: str, value: object, least: int = 1) -> None:
    """Check that an argument is a whole number, and large enough.

    Parameters
    ----------
    called
        Name of the argument, for the message.
    value
        The argument.
    least
        Smallest allowed value.

    Raises
    ------
    ConfigTypeError
        The argument is not a whole number.
    ConfigError
        It is too small.
    """
    if not is_whole(value) or cast(int, value) < least:
        raise setting_error(
            f"{called} must be a whole number from {least} on, found {quoted(value)}", of_right_type=is_whole(value)
        )


def check_share(called: str, value: object) -> None:
    """Check that an argument is a number above 0 and up to 1.

    Parameters
    ----------
    called
        Name of the argument, for the message.
    value
        The argument.

    Raises
    ------
    ConfigTypeError
        The argument is not a number.
    ConfigError
        It is out of range.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < cast(float, value) <= 1:
        raise setting_error(
            f"{called} must be a number above 0 and up to 1, found {quoted(value)}", of_right_type=is_number
        )


def check_flag(called: str, value: object) -> None:
    """Check that an argument is True or False.

    Parameters
    ----------
    called
        Name of the argument, for the message.
    value
        The argument.

    Raises
    ------
    ConfigTypeError
        The argument is something else.
    """
    if not isinstance(value, bool):
        raise ConfigTypeError(f"{called} must be True or False, found {quoted(value)}")


def check_choice(called: str, value: object, choices: Sequence[str]) -> None:
    """Check that an argument is one of several strings.

    Parameters
    ----------
    called
        Name of the argument, for the message.
    value
        The argument.
    choices
        The allowed values.

    Raises
    ------
    ConfigTypeError
        The argument is not a string.
    ConfigError
        It is another string.
    """
    if value not in choices:
        raise setting_error(
            f"{called} must be one of {', '.join(map(repr, choices))}, found {quoted(value)}",
            of_right_type=isinstance(value, str),
        )
