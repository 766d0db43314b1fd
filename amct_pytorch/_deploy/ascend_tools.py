"""Run Ascend's own tools, ``atc`` and ``ais_bench``, where they are installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Each network is timed this often, in turn with the other: a drift of the device shows as a spread of the rounds.
_ROUNDS = 3

# The end of a tool's output that an error quotes: its own last lines, and what the script says to look at.
_LAST_CHARACTERS = 3000

# The line of ais_bench's summary with the time on the device.
_SUMMARY = re.compile(r"NPU_compute_time.*?median\s*=\s*([\d.]+)")


@dataclass(frozen=True)
class Conversion:
    """The result of running ``atc`` here.

    Attributes
    ----------
    soc_version
        The chip that was compiled for.
    error
        The end of its output if it failed; empty if it succeeded.
    """

    soc_version: str
    error: str

    def __str__(self) -> str:
        return f"atc for {self.soc_version}: " + (f"failed:\n{self.error}" if self.error else "compiled")


@dataclass(frozen=True)
class Timing:
    """The result of running ``ais_bench`` here, on both models in turn.

    Attributes
    ----------
    soc_version
        The chip that was compiled for.
    model, original
        Median time of an inference in milliseconds, for each round; empty after an error, or without an original.
    error
        The end of its output if it failed; empty if it succeeded.
    """

    soc_version: str
    model: tuple[float, ...]
    original: tuple[float, ...]
    error: str

    @property
    def speed_up(self) -> float | None:
        """Time of the original divided by that of the model, of the medians; None unless both were timed."""
        if not self.model or not self.original:
            return None
        return statistics.median(self.original) / statistics.median(self.model)

    def __str__(self) -> str:
        if self.error:
            return f"ais_bench for {self.soc_version} failed:\n{self.error}"
        text = f"ais_bench for {self.soc_version}: {statistics.median(self.model):.3g} ms"
        if self.speed_up is None:
            return text
        return f"{text}, the original {statistics.median(self.original):.3g} ms: {self.speed_up:.2f} times as fast"


def convert(folder: Path, soc_versions: Sequence[str], precision: str) -> list[Conversion]:
    """Run the script of every chip.

    Parameters
    ----------
    folder
        Has the scripts and the ONNX files.
    soc_versions
        Names of the chips.
    precision
        ATC's ``--precision_mode_v2``.

    Returns
    -------
    list of Conversion
        One for each chip; empty if ``atc`` is not on the PATH.
    """
    if shutil.which("atc") is None:
        return []
    environment = {**os.environ, "PRECISION": precision}
    return [
        Conversion(soc_version, _run(["bash", f"atc_{soc_version}.sh"], folder, environment)[1])
        for soc_version in soc_versions
    ]


def time_compiled(
    folder: Path, soc_versions: Sequence[str], networks: Sequence[str], precision: str, size: Sequence[str]
) -> list[Timing]:
    """Time the networks compiled for every chip, in turn.

    Parameters
    ----------
    folder
        Has the compiled models.
    soc_versions
        Names of the chips.
    networks
        Names of the ONNX files without suffix: "model", and "original" if it was exported.
    precision
        The precision that they were compiled with.
    size
        Options of ais_bench that set the size of the inputs; empty for fixed sizes.

    Returns
    -------
    list of Timing
        One for each chip; empty if ``ais_bench`` cannot be imported.
    """
    if not _has_ais_bench():
        return []
    return [_time(folder, soc_version, networks, precision, size) for soc_version in soc_versions]


def _time(folder: Path, soc_version: str, networks: Sequence[str], precision: str, size: Sequence[str]) -> Timing:
    times: dict[str, list[float]] = {"model": [], "original": []}
    for _ in range(_ROUNDS):
        for name in networks:
            command = [sys.executable, "-m", "ais_bench", "--model", f"{name}_{soc_version}_{precision}.om"]
            printed, error = _run([*command, "--loop", "100", "--warmup_count", "10", *size], folder, os.environ)
            found = _SUMMARY.search(printed)
            if error or not found:
                reason = error or f"it printed no NPU_compute_time:\n{printed[-_LAST_CHARACTERS:].strip()}"
                return Timing(soc_version, (), (), reason)
            times[name].append(float(found[1]))
    return Timing(soc_version, tuple(times["model"]), tuple(times["original"]), "")


def _has_ais_bench() -> bool:
    """Whether Ascend's ais_bench is installed: an unrelated package of the same name has no folder infer."""
    spec = importlib.util.find_spec("ais_bench")
    folders = spec.submodule_search_locations if spec else None
    return any(Path(folder, "infer").is_dir() for folder in folders or ())


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    """The output of a program, and the end of it as an error message if the program failed, else an empty one."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        return "", str(error)
    printed = done.stdout.decode(errors="replace")
    if not done.returncode:
        return printed, ""
    return printed, printed[-_LAST_CHARACTERS:].strip() or f"{command[0]} failed with status {done.returncode}"
