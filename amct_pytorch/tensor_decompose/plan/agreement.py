"""Whether all processes of a group are about to make the same plan."""

from __future__ import annotations

from ..._run.process_group import ProcessGroup
from ...errors import ConfigError, quoted
from ..calibration.data import Calibration
from ..ranks.budget import Budget


def check_alike(
    processes: ProcessGroup,
    function: str,
    budget: Budget | None,
    calibration: Calibration | None,
    example_inputs: object,
    decompose_info_path: object = None,
) -> None:
    """Check that every process has called the same function, with settings that lead to the same steps.

    Raises
    ------
    ConfigError
        One has not; it is raised in all.
    """
    fitted = "None"
    if isinstance(calibration, Calibration):
        fitted = f"mode={quoted(calibration.mode)}, add_bias={calibration.add_bias}, memory={calibration.memory}"
    own = {
        "the function called": function,
        "budget": repr(budget),
        "calibration": fitted,
        "example_inputs": "None" if example_inputs is None else "given",
        "decompose_info_path": "None" if decompose_info_path is None else "given",
    }
    for number, other in enumerate(processes.gather(own)):
        for what, found in other.items():
            if found != own[what]:
                raise ConfigError(
                    f"{what} differs between the processes of the group: {found} in process {number}, {own[what]} in "
                    f"process {processes.index}: give all of them the same, or distributed=False"
                )
