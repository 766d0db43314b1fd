"""Which layers there is memory for to be fitted in the mode asked for."""

from __future__ import annotations

from collections.abc import Sequence

from ..methods.weight_group import WeightGroup
from .data import Calibration, LayerMode, mode_of_layers
from .moments import bytes_of_moments


def affordable_modes(
    groups: Sequence[WeightGroup], candidates: Sequence[int], calibration: Calibration
) -> tuple[dict[int, LayerMode], dict[int, str]]:
    """The mode for every group, and why where it is not the one asked for."""
    modes: dict[int, LayerMode] = dict.fromkeys(candidates, mode_of_layers(calibration.mode))
    notes = dict.fromkeys(candidates, "")
    if calibration.mode == "whiten":
        return modes, notes
    taken = 0
    for index in sorted(candidates, key=lambda index: bytes_of_moments(groups[index].spec)):
        needed = bytes_of_moments(groups[index].spec) + (taken if calibration.mode == "refit" else 0)
        if needed > calibration.memory:
            modes[index] = "whiten"
            notes[index] = f"{calibration.mode} would take {_gib(needed)} of memory, over {_gib(calibration.memory)}"
        else:
            taken = needed
    return modes, notes


def unaffordable(groups: Sequence[WeightGroup], which: Sequence[int], memory: int) -> list[int]:
    """Those of these groups for whose moments of whole patches there is no memory."""
    taken, left = 0, []
    for index in sorted(which, key=lambda index: bytes_of_moments(groups[index].spec)):
        taken += bytes_of_moments(groups[index].spec)
        if taken > memory:
            left.append(index)
    return left


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
