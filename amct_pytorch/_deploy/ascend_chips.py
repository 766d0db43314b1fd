"""The chips that ATC can compile for here: their names, and what differs between their families."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .._run.arguments import setting_error
from ..errors import ConfigError, quoted

# Patterns of the names, and the family of each. A bare Ascend910B is an older chip.
_FAMILIES = (
    (r"Ascend910B\d(C|-\d)?", "Atlas A2"),
    (r"Ascend910_93\d\d", "Atlas A3"),
    (r"Ascend950[A-Za-z0-9_]*", "Ascend 950"),
)

# Names of other chips that ATC may know, for which the files here are not made.
_UNSUPPORTED = r"Ascend(310[A-Z]?\d?|610[A-Za-z]*|910(A|B|ProA|ProB|PremiumA)?)"

FINDING = {
    "Atlas A2": '"Ascend" and the Name that `npu-smi info` prints, such as 910B3',
    "Atlas A3": "ChipName_NPUName as `npu-smi info -t board -i ID -c CHIP` prints them, such as Ascend910_9391",
    "Ascend 950": "ChipName_NPUName as `npu-smi info -t board -i ID` prints them, such as Ascend950PR_9599",
}
"""How the name of a chip is found on the device, by family."""


@dataclass(frozen=True)
class Target:
    """A chip to compile for.

    Attributes
    ----------
    soc_version
        Name of the chip, the value of ATC's option ``--soc_version``.
    family
        "Atlas A2", "Atlas A3" or "Ascend 950".
    """

    soc_version: str
    family: str


def checked_targets(soc_versions: object) -> list[Target]:
    """The chips with these names, each once.

    Parameters
    ----------
    soc_versions
        A list of names, see `target_of`.

    Raises
    ------
    ConfigError
        The list is empty, or no supported chip has one of the names; `ConfigTypeError` if it is no list of names.
    """
    are_names = (
        isinstance(soc_versions, Sequence)
        and not isinstance(soc_versions, str)
        and all(isinstance(name, str) for name in soc_versions)
    )
    if not isinstance(soc_versions, Sequence) or not are_names or not soc_versions:
        raise setting_error(
            f"soc_versions must be a list of names such as ['Ascend910B3'], found {quoted(soc_versions)}",
            of_right_type=are_names,
        )
    return list(dict.fromkeys(map(target_of, soc_versions)))


def target_of(soc_version: str) -> Target:
    """The chip with this name.

    Parameters
    ----------
    soc_version
        The name, which may be without the "Ascend" in front: "Ascend910B3", "910B3".

    Raises
    ------
    ConfigError
        No supported chip has this name.
    """
    name = f"Ascend{soc_version.removeprefix('Ascend')}"
    for pattern, family in _FAMILIES:
        if re.fullmatch(pattern, name):
            return Target(name, family)
    known = ", a chip that is not supported" if re.fullmatch(_UNSUPPORTED, name) else ""
    ways = "; ".join(f"{family}: {way}" for family, way in FINDING.items())
    raise ConfigError(
        f"soc_versions: expected names such as Ascend910B3 (Atlas A2), Ascend910_9391 (Atlas A3) or Ascend950PR_9599 "
        f"(Ascend 950), found {quoted(soc_version)}{known}. The name of a card is: {ways}"
    )


def largest_number_of_sizes(targets: Sequence[Target]) -> int:
    """How many dynamic sizes ATC compiles for at once: 256 on Ascend 950, 100 on the others.

    Parameters
    ----------
    targets
        All the chips to compile for.
    """
    return 256 if all(target.family == "Ascend 950" for target in targets) else 100
