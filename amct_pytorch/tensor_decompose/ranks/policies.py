"""Rank policies: how the rank of a layer follows from its own singular values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np

from ..._run.arguments import check_share, check_whole
from ...errors import ConfigError, quoted
from ..name_rules import check_patterns, find_rule
from .evbmf import evbmf_rank
from .spectrum import MatricisedKernel, Singulars

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

Ranks: TypeAlias = "int | tuple[int, ...]"
"""One rank, for each that a split has, or one for each of them."""


@runtime_checkable
class RankPolicy(Protocol):
    """How a layer's rank is chosen: a pure function of its singular values.

    A policy whose ranks must not depend on calibration data says so by an attribute ``ignores_calibration = True``;
    it is then given the singular values of the weight itself. Without that attribute, and with calibration, they are
    those of the weight seen through the layer's inputs.
    """

    def for_layer(self, names: tuple[str, ...]) -> RankPolicy | str:
        """The policy for the layer of these names, or the reason in words why it gets no rank."""

    def choose(self, kernel: MatricisedKernel, singulars: Singulars) -> tuple[int, str]:
        """The rank, 1 <= rank <= kernel.rows, and where it comes from, in words.

        A split with several ranks asks once for each, with the kernel unfolded for it.
        """


class _SameForEveryLayer:
    def for_layer(self, names: tuple[str, ...]) -> Self:
        """See `RankPolicy`."""
        return self


@dataclass(frozen=True)
class EvbmfRank(_SameForEveryLayer):
    """The ranks of Huawei AMCT: what EVBMF finds, clamped to a window.

    The window is 1/5 to 1/4 of the full rank, or 1/7 to 1/6 of it below 256 channels.
    """

    ignores_calibration: ClassVar[bool] = True  # they stay the reference's

    def choose(self, kernel: MatricisedKernel, singulars: Singulars) -> tuple[int, str]:
        """See `RankPolicy`."""
        estimate = evbmf_rank(singulars, kernel.columns)
        clamped = clamp_to_window(estimate, kernel.rows, kernel.channels)
        text = f"EVBMF finds {estimate} terms"
        if clamped != estimate:
            text += f", the nearest in its window is {clamped}"
        return round_rank(clamped, kernel.multiple, kernel.rows), text


@dataclass(frozen=True)
class EnergyRank(_SameForEveryLayer):
    """The least rank that keeps a share of the kernel's energy, the sum of its squared singular values.

    Rounded up to the rank multiple. With calibration, of the energy of the kernel seen through the layer's inputs.

    Parameters
    ----------
    share
        Above 0 and up to 1.
    """

    share: float = 0.95
    ignores_calibration: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_share("EnergyRank: share", self.share)

    def choose(self, kernel: MatricisedKernel, singulars: Singulars) -> tuple[int, str]:
        """See `RankPolicy`."""
        least = energy_rank(singulars, self.share)
        rounded = max(1, -(-least // kernel.multiple)) * kernel.multiple
        return min(rounded, kernel.rows), f"{least} terms hold {self.share:.4g} of the energy"


@dataclass(frozen=True)
class RatioRank(_SameForEveryLayer):
    """A fixed share of the full rank, rounded to the rank multiple.

    Parameters
    ----------
    ratio
        Above 0 and up to 1.
    """

    ratio: float = 0.25
    ignores_calibration: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_share("RatioRank: ratio", self.ratio)

    def choose(self, kernel: MatricisedKernel, singulars: Singulars) -> tuple[int, str]:
        """See `RankPolicy`."""
        wanted = round(self.ratio * kernel.rows)
        return (
            round_rank(wanted, kernel.multiple, kernel.rows),
            f"{self.ratio:.4g} of the full rank {kernel.rows}",
        )


@dataclass(frozen=True)
class FixedRank:
    """Ranks given by the user, taken as they are: one for every layer, or one for each name or pattern.

    Parameters
    ----------
    ranks
        The rank, or ranks by layer name or pattern (``"re:…"``). Layers that the mapping does not name are kept. A
        split with several ranks takes the number for each of them, or a tuple with one for each, in its order.
    """

    ranks: Ranks | Mapping[str, Ranks]
    ignores_calibration: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.ranks, Mapping):
            object.__setattr__(self, "ranks", _checked("FixedRank: the rank", self.ranks))
            return
        check_patterns("FixedRank", self.ranks)
        ranks = {name: _checked(f"FixedRank: the rank of {quoted(name)}", rank) for name, rank in self.ranks.items()}
        object.__setattr__(self, "ranks", ranks)

    def for_layer(self, names: tuple[str, ...]) -> FixedRank | str:
        """See `RankPolicy`."""
        if not isinstance(self.ranks, Mapping):
            return self
        key = find_rule(self.ranks, names)
        return "FixedRank names no rank for it" if key is None else FixedRank(self.ranks[key])

    def choose(self, kernel: MatricisedKernel, singulars: Singulars) -> tuple[int, str]:
        """See `RankPolicy`."""
        if isinstance(self.ranks, Mapping):
            raise ConfigError("FixedRank: a mapping gives ranks to layers by name: ask for_layer first")
        rank, full = self.ranks, kernel.full_ranks
        if isinstance(rank, tuple):
            if len(rank) != len(full):
                wanted = f"{len(full)} ranks, of {list(full)}" if len(full) > 1 else f"a single rank, of {full[0]}"
                raise ConfigError(f"FixedRank gives {len(rank)} ranks {list(rank)}, but the split has {wanted} at most")
            rank = rank[kernel.position]
        if rank > kernel.rows:
            place = f" for number {kernel.position + 1} of its {len(full)} ranks" if len(full) > 1 else ""
            raise ConfigError(
                f"FixedRank asks for rank {rank}, but the kernel has rank {kernel.rows} at most{place}: "
                f"give {kernel.rows} or less"
            )
        return rank, "given by FixedRank"


def _checked(called: str, rank: object) -> Ranks:
    """The rank, or the ranks as a tuple, if they are whole numbers from 1 on."""
    if isinstance(rank, str) or not isinstance(rank, Sequence):
        check_whole(called, rank)
        return cast(int, rank)
    if not rank:
        raise ConfigError(f"{called} must be a whole number, or several, found none")
    for one in rank:
        check_whole(called, one)
    return tuple(rank)


def clamp_to_window(rank: int, full_rank: int, channels: int) -> int:
    """Clamp an estimated rank to the window of the separable split.

    Parameters
    ----------
    rank
        The estimate.
    full_rank
        The smaller side L of the matricised kernel.
    channels
        min(in_channels, out_channels).
    """
    divisor = 4 if channels >= 256 else 6
    return min(max(rank, full_rank // (divisor + 1)), full_rank // divisor)


def round_rank(rank: int, multiple: int, full_rank: int) -> int:
    """The multiple nearest to rank, one more where that loses over a tenth of it; never above full_rank."""
    rounded = max(multiple, (rank + multiple // 2) // multiple * multiple)
    if rounded < 0.9 * rank:
        rounded += multiple
    return min(rounded, full_rank)


def energy_rank(singulars: Singulars, share: float) -> int:
    """The least number of leading terms that hold this share of the sum of squared singular values."""
    if singulars[0] == 0:
        return 0
    held = np.cumsum((singulars / singulars[0]) ** 2)
    # The last partial sum may fall a rounding error short of the whole.
    return min(int(np.searchsorted(held, share * held[-1])) + 1, len(singulars))
