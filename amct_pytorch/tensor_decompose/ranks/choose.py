"""From the spectra of all layers to their ranks. Pure: numbers and settings in, numbers and reasons out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

from ...errors import ConfigError, quoted, shown
from .policies import RankPolicy
from .spectrum import MatricisedKernel, Singulars, Spectrum


@dataclass(frozen=True)
class RankRequest:
    """What ranks are wanted for a layer.

    Attributes
    ----------
    name
        The layer, for messages.
    method
        Name of the method that splits it, for messages.
    policy
        How its ranks follow from its singular values.
    multiple
        What they are rounded to multiples of.
    """

    name: str
    method: str
    policy: RankPolicy
    multiple: int

    @property
    def ignores_calibration(self) -> bool:
        """Whether the ranks are those without calibration."""
        return bool(getattr(self.policy, "ignores_calibration", False))


@dataclass(frozen=True)
class Choice:
    """The ranks of a layer, and where they come from, in words."""

    ranks: tuple[int, ...]
    reason: str


def choose_each_alone(requests: Sequence[RankRequest], spectra: Sequence[Spectrum]) -> list[Choice]:
    """The ranks of every layer, each by its own policy and whatever those of the others are.

    Raises
    ------
    ConfigError
        A policy chooses a rank that is not possible; the message names the layer.
    """
    return [
        _choose(request, spectrum, [part.singulars for part in spectrum.unfoldings])
        for request, spectrum in zip(requests, spectra, strict=True)
    ]


def rounding_decides(request: RankRequest, spectrum: Spectrum, choice: Choice) -> bool:
    """Whether rounding in the spectrum may have turned the choice, or blurs the terms that it keeps."""
    if spectrum.exact:
        return False
    disturbed = zip(*(part.disturbed_singulars for part in spectrum.unfoldings), strict=True)
    return spectrum.blurs(choice.ranks) or any(
        _choose(request, spectrum, singulars).ranks != choice.ranks for singulars in disturbed
    )


def _choose(request: RankRequest, spectrum: Spectrum, singulars: Sequence[Singulars]) -> Choice:
    ranks, reasons = [], []
    full = tuple(part.rows for part in spectrum.unfoldings)
    for position, (part, values) in enumerate(zip(spectrum.unfoldings, singulars, strict=True)):
        kernel = MatricisedKernel(part.rows, part.columns, part.channels, request.multiple, position, full)
        where = f"layer {quoted(request.name)}"
        try:
            rank, reason = _checked(request.policy, request.policy.choose(kernel, values), part.rows)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error} ({request.method})") from None
        except Exception as error:
            raise ConfigError(
                f"{where}: {quoted(request.policy)} fails: {type(error).__name__}: {shown(error)} ({request.method})"
            ) from error
        ranks.append(rank)
        reasons.append(reason)
    return Choice(tuple(ranks), "; ".join(dict.fromkeys(reasons)))


def _checked(policy: RankPolicy, found: object, most: int) -> tuple[int, str]:
    """What a policy has chosen, where it is a possible rank and a text."""
    rank, reason = found if isinstance(found, tuple) and len(found) == 2 else (None, None)
    if isinstance(rank, Integral) and isinstance(reason, str):
        if isinstance(rank, bool) or not 1 <= int(rank) <= most:
            raise ConfigError(f"{quoted(policy)} must choose a rank from 1 to {most}, found {quoted(rank)}")
        return int(rank), reason
    raise ConfigError(
        f"{quoted(policy)} must return a rank from 1 to {most} and where it comes from, in words, found {quoted(found)}"
    )
