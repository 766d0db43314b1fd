"""Settings as files: JSON that says how to decompose, to be kept beside a model or handed to another machine."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from .._storage.atomic import write_file
from .._storage.json_text import is_version, parsed
from .._storage.paths import file_to_write
from .._storage.reading import read_text
from ..errors import ConfigError, PlanFileAccessError, PlanFileError, quoted, shown
from .config import DecompositionConfig
from .ranks.policies import EnergyRank, EvbmfRank, FixedRank, RankPolicy, RatioRank

_FORMAT, _VERSION = "amct_pytorch.config", 1
_POLICIES = {kind.__name__: kind for kind in (EvbmfRank, EnergyRank, RatioRank, FixedRank)}


def save_config(config: DecompositionConfig, path: str | os.PathLike[str]) -> None:
    """Write settings to a JSON file, which `load_config` reads.

    Parameters
    ----------
    config
        The settings. Their rank policies must be ours: one of your own is code, which a file does not hold.
    path
        Of the file. An existing one is replaced, missing folders are made.

    Raises
    ------
    ConfigTypeError, ConfigError
        The path is none, or a rank policy is not ours.
    PlanFileAccessError
        The file cannot be written; an earlier one is as it was.
    """
    place = file_to_write(path, "path", PlanFileAccessError)
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    layers = {name: rule if rule is False else _plain(rule) for name, rule in config.layers.items()}
    content = {"format": _FORMAT, "version": _VERSION, **_plain({**settings, "layers": layers})}
    write_file(place, json.dumps(content, indent=2) + "\n", PlanFileAccessError)


def load_config(path: str | os.PathLike[str]) -> DecompositionConfig:
    """Read settings from a file that `save_config` wrote.

    Parameters
    ----------
    path
        Of the file.

    Raises
    ------
    ConfigTypeError, PlanFileAccessError
        The path is none, or the file cannot be read.
    PlanFileError
        Its content is wrong; the message says where.
    """
    text = read_text(
        path,
        "path",
        "file of settings",
        error=PlanFileAccessError,
        missing=PlanFileAccessError,
        content=PlanFileError,
    )
    where = shown(os.fspath(path))
    content = parsed(text, f"{where}:", PlanFileError)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise PlanFileError(f"{where}: expected settings as save_config writes them, found another file")
    if not is_version(content.get("version"), [_VERSION]):
        raise PlanFileError(
            f"{where}: expected version {_VERSION}, found {quoted(content.get('version'))}: it was written by "
            "another release"
        )
    settings = {key: value for key, value in content.items() if key not in ("format", "version")}
    known = {field.name for field in dataclasses.fields(DecompositionConfig)}
    if not set(settings) <= known:
        unknown = shown(", ".join(sorted(set(settings) - known)))
        raise PlanFileError(f"{where}: expected settings among {', '.join(sorted(known))}, found {unknown}")
    try:
        layers = settings.pop("layers", {})
        if isinstance(layers, Mapping):
            layers = {name: _with_policy(rule) for name, rule in layers.items()}
        return DecompositionConfig(**_with_policy(settings), layers=layers)
    except ConfigError as error:
        raise PlanFileError(f"{where}: {error}") from error


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain_policy(value) if key == "rank" else value for key, value in settings.items()}


def _plain_policy(policy: RankPolicy) -> dict[str, Any]:
    if type(policy) not in _POLICIES.values():
        raise ConfigError(
            f"rank policy {quoted(policy)}: expected one of {', '.join(_POLICIES)}, as a file holds no code of your own"
        )
    return {"policy": type(policy).__name__, **dataclasses.asdict(policy)}  # type: ignore[call-overload]  # they are


def _with_policy(settings: Any) -> Any:
    """Settings with their rank policy as an object, if they are any and have one."""
    if not isinstance(settings, Mapping) or "rank" not in settings:
        return settings
    plain = settings["rank"]
    if not isinstance(plain, Mapping) or plain.get("policy") not in list(_POLICIES):
        raise ConfigError(f"rank: expected an object with a policy among {', '.join(_POLICIES)}, found {quoted(plain)}")
    kind = _POLICIES[plain["policy"]]
    arguments = {key: value for key, value in plain.items() if key != "policy"}
    if set(arguments) != {field.name for field in dataclasses.fields(kind)}:
        raise ConfigError(f"rank: expected the settings of {kind.__name__}, found {quoted(plain)}")
    return {**settings, "rank": kind(**arguments)}
