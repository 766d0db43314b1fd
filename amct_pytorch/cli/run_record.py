"""What was run: the command, when, for how long, on what device, with which versions."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .._report.run_record import RunRecord
from .._run.placement import backend_of
from .command import running
from .output_folder import RUN

_PACKAGES = ("amct_pytorch", "torch", "numpy", "scipy", "tensorly")


def save_run(folder: Path, backend: str | None = None, index: int | None = None, *, first: bool = True) -> None:
    """Write what was run to a folder.

    Parameters
    ----------
    folder
        The output folder.
    backend, index
        Where something was measured; by default the host, where everything else is computed.
    first
        Whether the verb makes the decomposition that the folder is of; the record of one that did stays otherwise.
    """
    if not first and (folder / RUN).exists():
        return
    command = running.get()
    info = backend_of(backend or "cpu").devices()[index or 0]
    versions = {"Python": platform.python_version(), **_versions(), **info.versions}
    seconds = time.monotonic() - command.clock
    record = RunRecord(str(command), command.began.isoformat(timespec="seconds"), seconds, info.name, versions)
    record.save(folder / RUN)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from its source, without being installed
            continue
    return found
