"""`--config`: a TOML file that holds what flags hold.

Keys are names of options, with ``-`` or ``_``. At the top level may stand any option of the program, to be taken by the
verbs that have it; in a table of the name of a verb those that only it should take.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import typer

from ..errors import ConfigError, PlanFileAccessError, PlanFileError, quoted, shown, similar

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

# Options that act at once, before a file is read.
_NOT_IN_FILES = {"config", "help", "help_all"}


def read_configuration(context: typer.Context, path: str | None) -> str | None:
    """Have the options of a verb default to what a file gives.

    Parameters
    ----------
    context
        Of the verb.
    path
        Of the file; None for none.

    Raises
    ------
    typer.BadParameter
        It cannot be read, is no TOML, or names an option that does not exist.
    """
    if path is None or context.resilient_parsing:
        return path
    program = context.find_root().command
    verbs: Mapping[str, Any] = program.commands  # type: ignore[attr-defined]
    options = {
        verb: {str(option.name): option.multiple for option in command.params if option.name not in _NOT_IN_FILES}
        for verb, command in verbs.items()
    }
    try:
        settings = settings_for(str(context.info_name), options, _content_of(path), path)
    except (PlanFileAccessError, PlanFileError, ConfigError) as error:
        raise typer.BadParameter(str(error)) from error
    context.default_map = {**(context.default_map or {}), **settings}
    return path


def settings_for(
    verb: str, options: Mapping[str, Mapping[str, bool]], content: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """What a file sets for a verb.

    Parameters
    ----------
    verb
        Name of the verb.
    options
        By verb the names of its options, and whether each may be repeated.
    content
        Content of the file.
    path
        Of the file, for messages.

    Raises
    ------
    ConfigError
        A key is no option.
    """
    tables = {key: value for key, value in content.items() if key in options and isinstance(value, Mapping)}
    top = {key: value for key, value in content.items() if key not in tables}
    _check_known(top, set().union(*options.values()), f"{shown(path)}: ")
    for name, table in tables.items():
        _check_known(table, options[name], f"{shown(path)}: [{name}]: ")
    given = {**top, **tables.get(verb, {})}
    own = options[verb]
    return {
        _named(key): _as_given(value, repeated=own[_named(key)]) for key, value in given.items() if _named(key) in own
    }


def _content_of(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanFileAccessError(f"{shown(path)}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise PlanFileError(f"{shown(path)}: expected a TOML file: {error}") from error


def _check_known(settings: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in settings:
        if _named(key) not in known:
            near = similar(_named(key), known)
            hint = f": did you mean {' or '.join(near)}?" if near else ": see --help-all for those that there are"
            raise ConfigError(f"{where}there is no option {quoted(key)}{hint}")


def _named(key: str) -> str:
    return key.replace("-", "_")


def _as_given(value: Any, *, repeated: bool) -> Any:
    """A value as the command line would give it."""
    if isinstance(value, Mapping):
        return [f"{name}={_rule(rule)}" for name, rule in value.items()] if repeated else json.dumps(value)
    if repeated:
        return list(map(str, value)) if isinstance(value, list) else [str(value)]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _rule(rule: Any) -> str:
    if rule is False:
        return "keep"
    return ",".join(f"{key}:{value}" for key, value in rule.items()) if isinstance(rule, Mapping) else str(rule)
