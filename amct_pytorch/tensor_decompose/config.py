"""What the user may decide: how ranks are chosen, and what differs for single layers, by name or pattern."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .._run.arguments import check_choice, check_flag, check_whole
from ..errors import ConfigError, ConfigTypeError, quoted
from .name_rules import check_patterns, find_rule
from .ranks.policies import EvbmfRank, FixedRank, RankPolicy


@dataclass(frozen=True)
class DecompositionConfig:
    """How to decompose. The defaults give the layers, modes and ranks of Huawei AMCT.

    Parameters
    ----------
    method
        Name of the decomposition method: ``"separable"``, ``"channel"``, ``"tucker2"`` or another that is installed;
        see `amct_pytorch.tensor_decompose.methods`. ``"auto"`` chooses among these three for each layer: ``rank`` is
        that of the first that may split it, and the one wins that leaves out least at no more multiply-accumulates,
        or without example inputs parameters; with calibration, of what the layer's inputs make of it.
    rank
        A rank policy: `EvbmfRank`, `EnergyRank`, `RatioRank` or `FixedRank`.
    rank_multiple
        Ranks are rounded to multiples of this, as the hardware likes them: 16 for fp16 on Ascend NPUs,
        32 where int8 follows. `FixedRank` is not rounded.
    layers
        Rules for single layers. A key is a layer's name, or a regular expression behind ``"re:"`` that is
        searched for in the names. A value is False (keep the layer), or a mapping with other values of
        ``method``, ``rule``, ``rank``, ``rank_multiple``, ``require_gain`` for it. The exact name comes first, then
        the patterns in order, then the defaults.
    require_gain
        Keep a layer whose split would not have fewer parameters or, with example inputs, not fewer MACs.
    rule
        ``"amct"`` keeps the layers that the method could split but AMCT, or sense, would not; ``"any"`` splits
        every layer that it can.

    Raises
    ------
    ConfigError
        A setting has the wrong type or value.
    """

    method: str = "separable"
    rank: RankPolicy = field(default_factory=EvbmfRank)
    rank_multiple: int = 16
    layers: Mapping[str, Literal[False] | Mapping[str, object]] = field(default_factory=dict)
    require_gain: bool = True
    rule: Literal["amct", "any"] = "amct"

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise ConfigTypeError(f"method must be a name, found {quoted(self.method)}")
        check_choice("rule", self.rule, ("amct", "any"))
        if not isinstance(self.rank, RankPolicy) or isinstance(self.rank, type):
            raise ConfigTypeError(
                f"rank must be a rank policy such as EvbmfRank() or RatioRank(0.25), found {quoted(self.rank)}"
            )
        check_whole("rank_multiple", self.rank_multiple)
        check_flag("require_gain", self.require_gain)
        if not isinstance(self.layers, Mapping):
            raise ConfigTypeError(f"layers must map names to rules, found {quoted(self.layers)}")
        check_patterns("layers", self.layers)
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
            return f"left out by the rule {quoted(key)}"
        settings = self._with_rule(key, rule)
        policy = settings.rank.for_layer(names)
        return policy if isinstance(policy, str) else dataclasses.replace(settings, rank=policy)

    @property
    def methods(self) -> set[tuple[str, str]]:
        """The methods in use, by name and with the ``rule``: for all layers, and as rules give them to single ones."""
        return {(self.method, self.rule), *(self._method_by(rule) for rule in self.layers.values())}

    def method_for(self, names: tuple[str, ...]) -> tuple[str, str]:
        """The method for a layer, by name and with the ``rule``, also where the layer is kept."""
        key = find_rule(self.layers, names)
        return self._method_by({} if key is None else self.layers[key])

    @property
    def gives_ranks(self) -> bool:
        """Whether it says what ranks layers are to have, other than by default."""
        rules = [rule for rule in self.layers.values() if rule is not False]
        return self.rank != EvbmfRank() or any("rank" in rule for rule in rules)

    def named_layers(self) -> Iterable[tuple[str, str]]:
        """Every key that should name a layer, each with the setting it stands in."""
        yield from (("layers", key) for key in self.layers)
        policies = [self.rank, *(rule.get("rank") for rule in self.layers.values() if rule is not False)]
        for policy in policies:
            if isinstance(policy, FixedRank) and isinstance(policy.ranks, Mapping):
                yield from (("FixedRank", key) for key in policy.ranks)

    def _method_by(self, rule: Literal[False] | Mapping[str, object]) -> tuple[str, str]:
        own = rule or {}
        return str(own.get("method", self.method)), str(own.get("rule", self.rule))

    def _with_rule(self, name: str | None, rule: object) -> DecompositionConfig:
        allowed = ("method", "rule", "rank", "rank_multiple", "require_gain")
        if not isinstance(rule, Mapping) or not set(rule) <= set(allowed):
            raise ConfigError(
                f"layers[{quoted(name)}] must be False or a mapping with some of {', '.join(allowed)}, found "
                f"{quoted(rule)}"
            )
        try:
            return dataclasses.replace(self, layers={}, **rule)
        except ConfigError as error:
            raise type(error)(f"layers[{quoted(name)}]: {error}") from None
