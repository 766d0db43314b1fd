"""How long a model and its layers take on a device, as they are and split. Plain data, and what measures them.

Nothing here knows a device or a clock: whoever plans for a budget of latency is given a `Stopwatch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..._run.progress import ProgressFunction
from .weight_group import WeightGroup

Ranks = tuple[int, ...]
"""Those of one split."""


@dataclass(frozen=True)
class LayerLatency:
    """How long the layers of one weight take in a run of the model, in nanoseconds.

    Attributes
    ----------
    before
        As they are.
    after
        Split by a method at some ranks: those splits that are measurably faster.
    """

    before: int
    after: Mapping[tuple[str, Ranks], int]

    def scaled(self, factor: float) -> LayerLatency:
        """The same, where all take so many times as long."""
        return LayerLatency(
            round(factor * self.before), {key: round(factor * time) for key, time in self.after.items()}
        )


@dataclass(frozen=True)
class Latencies:
    """How long a model and its layers take.

    Attributes
    ----------
    model
        The whole model, in nanoseconds.
    layers
        For each weight.
    device
        Where and how it was measured, in words: the device, type, threads and other settings.
    """

    model: int
    layers: tuple[LayerLatency, ...]
    device: str


@dataclass(frozen=True)
class Measured:
    """A decomposed model, timed as a whole in turn with its original.

    Attributes
    ----------
    share
        Its time as a share of that of the original.
    low, high
        The 99 % confidence interval of the share.
    faster
        Whether the interval lies below 1.
    cpu_share
        Share of the CPU time that the process could use that it got meanwhile; None where that is not known.
    """

    share: float
    low: float
    high: float
    faster: bool
    cpu_share: float | None


@dataclass(frozen=True)
class LatencyProof:
    """What a plan for a budget of latency was seen to reach.

    Attributes
    ----------
    expected
        Time of the decomposed model as a share of the original's, by the times of the layers.
    measured, low, high
        The same as measured on the whole models in turn, with its 99 % confidence interval.
    rounds
        How many choices were measured as a whole.
    cpu_share
        Share of the CPU time that the process could use that it got meanwhile; None where that is not known.
    device
        See `Latencies`.
    """

    expected: float
    measured: float
    low: float
    high: float
    rounds: int
    cpu_share: float | None
    device: str

    def __str__(self) -> str:
        got = "" if self.cpu_share is None else f", with {self.cpu_share:.0%} of the CPU time that it could use"
        measured = f"{self.measured:.1%} [{self.low:.1%}, {self.high:.1%}] of the time measured"
        rounds = f"{self.rounds} round{'s' * (self.rounds > 1)}"
        return f"{measured}, {self.expected:.1%} expected, in {rounds} on {self.device}{got}"


class Stopwatch(Protocol):
    """Times layers and models on a device."""

    rank_multiple: int
    """Ranks that are no multiple of it take as long as the next one."""

    def time_layers(self, weights: Sequence[Mapping[str, WeightGroup]], report: ProgressFunction) -> Latencies:
        """Time the whole model, and the splits of its layers.

        Parameters
        ----------
        weights
            Each by the methods that may split it.
        report
            Called with (0, number of weights, what is being timed).
        """

    def time_model(self, splits: Sequence[tuple[WeightGroup, Ranks]]) -> Measured:
        """Time the model with these weights split at these ranks, in turn with the original."""
