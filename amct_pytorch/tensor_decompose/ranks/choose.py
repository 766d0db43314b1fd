"""From the spectra of all layers to their ranks. Pure: numbers and settings in, numbers and reasons out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ConfigError, quoted
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
        try:
            rank, reason = request.policy.choose(kernel, values)
            if not 1 <= rank <= part.rows:
                raise ConfigError(
                    f"{quoted(request.policy)} must choose a rank from 1 to {part.rows}, found {quoted(rank)}"
                )
        except ConfigError as error:
            raise ConfigError(f"layer {quoted(request.name)}: {error} ({request.method})") from None
        ranks.append(rank)
        reasons.append(reason)
    return Choice(tuple(ranks), "; ".join(dict.fromkeys(reasons)))
