"""Rules by layer name: an exact name, or a pattern behind ``"re:"``, that picks out layers of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..errors import ConfigError, listed, quoted, similar

PATTERN = "re:"
"""Prefix of a rule's key that is a regular expression, searched for in layer names."""


def find_rule(rules: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    """The key of the rule for a layer of these names: an exact name first, then patterns in order.

    Raises
    ------
    ConfigError
        Two of the names have different rules of their own.
    """
    exact = [name for name in names if name in rules]
    if exact:
        if any(rules[name] != rules[exact[0]] for name in exact):
            raise ConfigError(
                f"{' and '.join(map(repr, exact))} are one layer under several names, "
                "but their rules differ: give one of them only"
            )
        return exact[0]
    for key in rules:
        if key.startswith(PATTERN):
            pattern = key.removeprefix(PATTERN)
            if any(re.search(pattern, name) for name in names):
                return key
    return None


def check_patterns(setting: str, rules: Mapping[str, object]) -> None:
    """Check that the keys of rules are names, or patterns that are regular expressions.

    Parameters
    ----------
    setting
        What the user knows the rules as, for messages.

    Raises
    ------
    ConfigError
        One is not.
    """
    for key in rules:
        if not isinstance(key, str):
            raise ConfigError(f"{setting}: a key must be a layer's name or a pattern, found {quoted(key)}")
        if key.startswith(PATTERN):
            try:
                re.compile(key.removeprefix(PATTERN))
            except re.error as error:
                raise ConfigError(f"{setting}: {quoted(key)} is no regular expression: {error}") from None


def check_keys_name_layers(keys: Iterable[tuple[str, str]], layers: Iterable[str], kinds: str) -> list[str]:
    """Check that the keys of rules name layers of the model.

    Parameters
    ----------
    keys
        Each with the setting that it stands in.
    layers
        Names of the model's layers, as far as a plan speaks of them.
    kinds
        What they are called in messages.

    Returns
    -------
    list of str
        A sentence for each pattern that matches no layer.

    Raises
    ------
    ConfigError
        An exact name is no layer of the model.
    """
    known = list(layers)
    idle = []
    for setting, key in keys:
        if key.startswith(PATTERN):
            if not any(re.search(key.removeprefix(PATTERN), name) for name in known):
                idle.append(f"{setting}: the pattern {quoted(key)} matches no {kinds} of the model")
        elif key not in known:
            close = similar(key, known)
            hint = f"did you mean {listed(close)}?" if close else ""
            if any(name.startswith(f"{key}.") for name in known):
                hint = f"for all {kinds} inside that module, use {f're:^{re.escape(key)}[.]'!r}"
            raise ConfigError(f"{setting}: the model has no {kinds} named {quoted(key)}; {hint}".rstrip("; "))
    return idle
