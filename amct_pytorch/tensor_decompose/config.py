"""What the user may decide: how ranks are chosen, and what differs for single layers, by name or pattern."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from ..errors import ConfigError
from .ranks.evbmf import Singulars, clamp_to_window, energy_rank, evbmf_rank, round_rank

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

PATTERN = "re:"
"""Prefix of a rule's key that is a regular expression, searched for in layer names."""


@dataclass(frozen=True)
class Matricised:
    """What a rank policy is told of a layer's kernel as a matrix of L rows and M columns, L <= M."""

    rows: int
    columns: int
    channels: int
    """min(in_channels, out_channels)."""
    multiple: int
    """Ranks go in steps of this."""


@runtime_checkable
class RankPolicy(Protocol):
    """How a layer's rank is chosen: a pure function of its singular values."""

    def for_layer(self, names: tuple[str, ...]) -> RankPolicy | str:
        """The policy for the layer of these names, or the reason in words why it gets no rank."""

    def choose(self, kernel: Matricised, singulars: Singulars) -> tuple[int, str]:
        """The rank, 1 <= rank <= kernel.rows, and where it comes from, in words.

        With calibration the singular values are those of the kernel weighted by the inputs, but for `EvbmfRank`,
        whose ranks stay the reference's.
        """


class _RanksEveryLayer:
    def for_layer(self, names: tuple[str, ...]) -> Self:
        return self


@dataclass(frozen=True)
class EvbmfRank(_RanksEveryLayer):
    """The ranks of Huawei AMCT: what EVBMF finds, clamped to a window.

    The window is 1/5 to 1/4 of the full rank, or 1/7 to 1/6 of it below 256 channels.
    """

    def choose(self, kernel: Matricised, singulars: Singulars) -> tuple[int, str]:
        """See `RankPolicy`."""
        estimate = evbmf_rank(singulars, kernel.columns)
        clamped = clamp_to_window(estimate, kernel.rows, kernel.channels)
        text = f"EVBMF finds {estimate} terms"
        if clamped != estimate:
            text += f", the nearest in its window is {clamped}"
        return round_rank(clamped, kernel.multiple, kernel.rows), text


@dataclass(frozen=True)
class EnergyRank(_RanksEveryLayer):
    """The least rank that keeps a share of the kernel's energy, the sum of its squared singular values.

    Rounded up to the rank multiple. With calibration, of the energy that the inputs give the kernel.
    """

    share: float = 0.95

    def __post_init__(self) -> None:
        _check_share("EnergyRank", "share", self.share)

    def choose(self, kernel: Matricised, singulars: Singulars) -> tuple[int, str]:
        """See `RankPolicy`."""
        least = energy_rank(singulars, self.share)
        rounded = max(1, -(-least // kernel.multiple)) * kernel.multiple
        return min(rounded, kernel.rows), f"{least} terms hold {self.share:.4g} of the energy"


@dataclass(frozen=True)
class RatioRank(_RanksEveryLayer):
    """A fixed share of the full rank, rounded to the rank multiple."""

    ratio: float = 0.25

    def __post_init__(self) -> None:
        _check_share("RatioRank", "ratio", self.ratio)

    def choose(self, kernel: Matricised, singulars: Singulars) -> tuple[int, str]:
        """See `RankPolicy`."""
        wanted = round(self.ratio * kernel.rows)
        return (
            round_rank(wanted, kernel.multiple, kernel.rows),
            f"{self.ratio:.4g} of the full rank {kernel.rows}",
        )


@dataclass(frozen=True)
class FixedRank:
    """Ranks given by the user, taken as they are: one for every layer, or one for each name or pattern.

    Layers that the mapping does not name are kept.
    """

    ranks: int | Mapping[str, int]

    def __post_init__(self) -> None:
        given = self.ranks if isinstance(self.ranks, Mapping) else {"": self.ranks}
        for name, rank in given.items():
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                where = f" of {name!r}" if name else ""
                raise ConfigError(f"FixedRank: the rank{where} must be a whole number from 1 on, found {rank!r}")
        if isinstance(self.ranks, Mapping):
            _check_patterns("FixedRank", self.ranks)
            object.__setattr__(self, "ranks", dict(self.ranks))

    def for_layer(self, names: tuple[str, ...]) -> FixedRank | str:
        """See `RankPolicy`."""
        if not isinstance(self.ranks, Mapping):
            return self
        key = find_rule(self.ranks, names)
        return "FixedRank names no rank for it" if key is None else FixedRank(self.ranks[key])

    def choose(self, kernel: Matricised, singulars: Singulars) -> tuple[int, str]:
        """See `RankPolicy`."""
        if not isinstance(self.ranks, int):
            raise ConfigError("FixedRank: a mapping gives ranks to layers by name: ask for_layer first")
        if self.ranks > kernel.rows:
            raise ConfigError(
                f"FixedRank asks for rank {self.ranks}, but the kernel has rank {kernel.rows} at most: "
                f"give {kernel.rows} or less"
            )
        return self.ranks, "given by FixedRank"


@dataclass(frozen=True)
class DecompositionConfig:
    """How to decompose. The defaults give the layers, modes and ranks of Huawei AMCT.

    Parameters
    ----------
    method
        Name of the decomposition method; see `amct_pytorch.tensor_decompose.methods`.
    rank
        A rank policy: `EvbmfRank`, `EnergyRank`, `RatioRank` or `FixedRank`.
    rank_multiple
        Ranks are rounded to multiples of this, as the hardware likes them: 16 for fp16 on Ascend NPUs,
        32 where int8 follows. `FixedRank` is not rounded.
    layers
        Rules for single layers. A key is a layer's name, or a regular expression behind ``"re:"`` that is
        searched for in the names. A value is False (keep the layer), or a mapping with other values of
        ``method``, ``rank``, ``rank_multiple``, ``require_gain`` for it. The exact name comes first, then
        the patterns in order, then the defaults.
    require_gain
        Keep a layer whose split would not have fewer parameters.

    Raises
    ------
    ConfigError
        A setting has the wrong type or value.
    """

    method: str = "separable"
    rank: RankPolicy = EvbmfRank()
    rank_multiple: int = 16
    layers: Mapping[str, Literal[False] | Mapping[str, object]] = field(default_factory=dict)
    require_gain: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise ConfigError(f"method must be a name, found {self.method!r}")
        if not isinstance(self.rank, RankPolicy) or isinstance(self.rank, type):
            raise ConfigError(f"rank must be a rank policy such as EvbmfRank() or RatioRank(0.25), found {self.rank!r}")
        multiple = self.rank_multiple
        if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
            raise ConfigError(f"rank_multiple must be a whole number from 1 on, found {multiple!r}")
        if not isinstance(self.require_gain, bool):
            raise ConfigError(f"require_gain must be True or False, found {self.require_gain!r}")
        if not isinstance(self.layers, Mapping):
            raise ConfigError(f"layers must map names to rules, found {self.layers!r}")
        _check_patterns("layers", self.layers)
        for name, rule in self.layers.items():
            if rule is not False:
                self._with_rule(name, rule)
        object.__setattr__(self, "layers", dict(self.layers))

    def for_layer(self, names: tuple[str, ...]) -> DecompositionConfig | str:
        """The settings of a layer, or the reason in words why a rule keeps it.

        Raises
        ------
        ConfigError
            The layer has several names, and rules for two of them differ.
        """
        key = find_rule(self.layers, names)
        rule = {} if key is None else self.layers[key]
        if rule is False:
            return f"left out by the rule {key!r}"
        settings = self._with_rule(key, rule)
        policy = settings.rank.for_layer(names)
        return policy if isinstance(policy, str) else dataclasses.replace(settings, rank=policy)

    def named_layers(self) -> Iterable[tuple[str, str]]:
        """Every key that should name a layer, each with the setting it stands in."""
        yield from (("layers", key) for key in self.layers)
        policies = [self.rank, *(rule.get("rank") for rule in self.layers.values() if rule is not False)]
        for policy in policies:
            if isinstance(policy, FixedRank) and isinstance(policy.ranks, Mapping):
                yield from (("FixedRank", key) for key in policy.ranks)

    def _with_rule(self, name: str | None, rule: object) -> DecompositionConfig:
        allowed = ("method", "rank", "rank_multiple", "require_gain")
        if not isinstance(rule, Mapping) or not set(rule) <= set(allowed):
            raise ConfigError(
                f"layers[{name!r}] must be False or a mapping with some of {', '.join(allowed)}, found {rule!r}"
            )
        try:
            return dataclasses.replace(self, layers={}, **rule)
        except ConfigError as error:
            raise ConfigError(f"layers[{name!r}]: {error}") from None


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


def check_keys_name_layers(config: DecompositionConfig, layers: Iterable[str]) -> list[str]:
    """Check that the keys of all rules name layers of the model.

    Returns
    -------
    list of str
        The patterns that match no layer, each in words.

    Raises
    ------
    ConfigError
        An exact name is no layer of the model.
    """
    known = list(layers)
    idle = []
    for setting, key in config.named_layers():
        if key.startswith(PATTERN):
            if not any(re.search(key.removeprefix(PATTERN), name) for name in known):
                idle.append(f"{setting}: the pattern {key!r} matches no Conv2d of the model")
        elif key not in known:
            close = difflib.get_close_matches(key, known, n=3)
            hint = f"did you mean {', '.join(map(repr, close))}?" if close else ""
            if any(name.startswith(f"{key}.") for name in known):
                hint = f"for all Conv2d inside that module, use {f're:^{re.escape(key)}[.]'!r}"
            raise ConfigError(f"{setting}: the model has no Conv2d named {key!r}; {hint}".rstrip("; "))
    return idle


def _check_share(policy: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigError(f"{policy}: {name} must be a number above 0 and up to 1, found {value!r}")


def _check_patterns(setting: str, rules: Mapping[str, object]) -> None:
    for key in rules:
        if not isinstance(key, str):
            raise ConfigError(f"{setting}: a key must be a layer's name or a pattern, found {key!r}")
        if key.startswith(PATTERN):
            try:
                re.compile(key.removeprefix(PATTERN))
            except re.error as error:
                raise ConfigError(f"{setting}: {key!r} is no regular expression: {error}") from None
