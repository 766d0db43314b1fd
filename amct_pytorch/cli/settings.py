"""From options to the objects of the Python functions: configuration, budget, rank policy, types."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..errors import ConfigError, quoted
from ..tensor_decompose import Budget, DecompositionConfig, EnergyRank, EvbmfRank, FixedRank, RatioRank
from ..tensor_decompose.ranks.policies import RankPolicy
from .options import BudgetOptions, MethodOptions, RankOptions, RefreshOptions, TimingOptions

_POLICIES: dict[str, type[EnergyRank] | type[RatioRank]] = {"energy": EnergyRank, "ratio": RatioRank}
# What a rule for a layer may say.
_KEYS = ("method", "rule", "rank", "rank_multiple", "require_gain")
_FLAGS = {"true": True, "false": False}


def budget_of(share: BudgetOptions, timing: TimingOptions, refresh: RefreshOptions) -> Budget | None:
    """The budget that options give; None for none.

    Parameters
    ----------
    share, timing, refresh
        The options.

    Raises
    ------
    ConfigError
        They do not go together, or a value is wrong.
    """
    given = {name: getattr(share, name) for name in given_in(share)}
    if len(given) > 1:
        found = ", ".join(f"--{name} {value:g}" for name, value in given.items())
        raise ConfigError(f"expected one of --macs, --parameters, --latency and --damage, found {found}")
    how = {**timing_of(timing), **dict.fromkeys(given_in(refresh), True)}
    if not given and not how:
        return None
    if not given:
        raise ConfigError(f"--{next(iter(how))} says how to time, which only --latency does: leave it out")
    return Budget(**given, **how)


def timing_of(timing: TimingOptions) -> dict[str, Any]:
    """Those settings of a measured latency that were given, by name.

    Parameters
    ----------
    timing
        The options.
    """
    given: dict[str, Any] = {name: getattr(timing, name) for name in given_in(timing)}
    if timing.dtype is not None:
        given["dtype"] = dtype_of(timing.dtype, "--dtype")
    return given


def dtypes_of(text: str | None) -> list[torch.dtype] | None:
    """The types of ``--dtypes``; None for the model's.

    Parameters
    ----------
    text
        ``float32,float16``.
    """
    return None if text is None else [dtype_of(name, "--dtypes") for name in text.split(",")]


def numbers_of(text: str | None, option: str) -> list[int] | None:
    """The whole numbers of a list; None for none.

    Parameters
    ----------
    text
        ``1,8``.
    option
        Where it was given, for messages.

    Raises
    ------
    ConfigError
        It is no such list.
    """
    if text is None:
        return None
    if not all(number.isdecimal() for number in text.split(",")):
        raise ConfigError(f"{option}: expected whole numbers such as 1,8, found {quoted(text)}")
    return [int(number) for number in text.split(",")]


def sizes_of(text: str | None, option: str) -> list[tuple[int, int]] | None:
    """The image sizes (height, width) of a list; None for none.

    Parameters
    ----------
    text
        ``224x224,320x320``.
    option
        Where it was given, for messages.

    Raises
    ------
    ConfigError
        It is no such list.
    """
    if text is None:
        return None
    sizes = [size.split("x") for size in text.split(",")]
    if not all(len(size) == 2 and all(side.isdecimal() and int(side) for side in size) for size in sizes):
        raise ConfigError(f"{option}: expected HEIGHTxWIDTH such as 224x224, found {quoted(text)}")
    return [(int(height), int(width)) for height, width in sizes]


def config_of(
    method: MethodOptions, rank: RankOptions | None, *, chosen_together: bool, rank_multiple: int | None = None
) -> DecompositionConfig | None:
    """The configuration that options give; None where none was given, so that the function's own default applies.

    Parameters
    ----------
    method, rank
        The options.
    chosen_together
        Whether there is a budget, or a search: then what was not given is as such a function would have it.
    rank_multiple
        Of the device, where a latency is to be reached; None for the default.

    Raises
    ------
    ConfigError
        A value is wrong.
    """
    given: dict[str, Any] = {name: getattr(method, name) for name in given_in(method)}
    if rank is not None and rank.rank is not None:
        given["rank"] = rank_of(rank.rank, "--rank")
    if not given:
        return None
    if method.layers:
        given["layers"] = dict(map(_rule, method.layers))
    defaults: dict[str, Any] = {"method": "auto", "rule": "any"} if chosen_together else {}
    if rank_multiple is not None:
        defaults["rank_multiple"] = rank_multiple
    return DecompositionConfig(**{**defaults, **given})


def given_in(group: Any) -> list[str]:
    """Names of the options of a group that were given: those that differ from their default.

    Parameters
    ----------
    group
        A dataclass of options.
    """
    fields = dataclasses.fields(group)
    return [field.name for field in fields if getattr(group, field.name) not in (field.default, [])]


def rank_of(text: str, option: str) -> RankPolicy:
    """The rank policy that a text means.

    Parameters
    ----------
    text
        ``evbmf``, ``energy:0.95``, ``ratio:0.25``, ``64``, or ``64x32`` for a split with two ranks.
    option
        Where it was given, for messages.

    Raises
    ------
    ConfigError
        It means none.
    """
    kind, _, value = text.partition(":")
    try:
        if text == "evbmf":
            return EvbmfRank()
        if kind in _POLICIES:
            return _POLICIES[kind](float(value))
        ranks = tuple(map(int, text.split("x")))
    except ConfigError as error:
        # Without the name of the class, which nobody has written.
        raise ConfigError(f"{option}: {str(error).partition(': ')[2]}") from error
    except ValueError as error:
        raise ConfigError(
            f"{option}: expected evbmf, energy:0.95, ratio:0.25, a rank such as 64, or 64x32, found {quoted(text)}"
        ) from error
    return FixedRank(ranks if len(ranks) > 1 else ranks[0])


def dtype_of(text: str, option: str) -> torch.dtype:
    """The type of this name.

    Parameters
    ----------
    text
        ``float16``.
    option
        Where it was given, for messages.

    Raises
    ------
    ConfigError
        There is no such type.
    """
    dtype = getattr(torch, text, None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(
            f"{option}: expected a type of torch, such as float32, float16 or int64, found {quoted(text)}"
        )
    return dtype


def _rule(text: str) -> tuple[str, Any]:
    name, equals, rule = text.rpartition("=")
    if not equals or not name:
        raise ConfigError(f"--layers: expected NAME=keep or NAME=KEY:VALUE,…, found {quoted(text)}")
    if rule == "keep":
        return name, False
    pairs = _pairs(rule, text)
    for key, _ in pairs:
        if key not in _KEYS:
            known = ", ".join(_KEYS).replace("_", "-")
            raise ConfigError(f"--layers {text}: expected some of {known}, found {quoted(key)}")
    return name, {key: _setting(key, value, text) for key, value in pairs}


def _pairs(rule: str, text: str) -> list[tuple[str, str]]:
    pairs = [pair.partition(":") for pair in rule.split(",")]
    if not all(colon for _, colon, _ in pairs):
        raise ConfigError(f"--layers: expected NAME=keep or NAME=KEY:VALUE,…, found {quoted(text)}")
    return [(key.strip().replace("-", "_"), value.strip()) for key, _, value in pairs]


def _setting(key: str, value: str, text: str) -> Any:
    if key == "rank":
        return rank_of(value, f"--layers {text}")
    if key == "rank_multiple" and value.isdecimal():
        return int(value)
    return _FLAGS.get(value.lower(), value) if key == "require_gain" else value
