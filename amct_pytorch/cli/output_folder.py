"""The output folder: what its files are called, and whether a verb may write to it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from .._storage.draft_locks import is_draft
from .._storage.paths import folder_to_write
from ..errors import ConfigError, ReportAccessError, listed, shown
from .options import OutputOptions

INFO = "decompose_info.json"
WEIGHTS, WEIGHTS_SAFETENSORS = "weights.pth", "weights.safetensors"
PLAN = "plan.pt"
SPECTRA = "spectra.json"
SEARCH, JOURNAL = "search.json", "search.jsonl"
VALIDATION, BENCHMARK, EXPORT, SCORES = "validation.json", "benchmark.json", "export.json", "scores.json"
ONNX, ASCEND = "model.onnx", "ascend"
RUN = "run.json"
REPORT = "report.html"

DECOMPOSITION = frozenset({INFO, WEIGHTS, WEIGHTS_SAFETENSORS, PLAN, SPECTRA, SEARCH, SCORES, RUN}) | {
    *(VALIDATION, BENCHMARK, EXPORT, ONNX, ASCEND, REPORT)
}
"""All that is of one decomposition. A verb that makes another replaces it as a whole, as they would not fit."""

UNFINISHED_SEARCH = frozenset({JOURNAL, f"{JOURNAL}.plan"})
"""What a search that was interrupted leaves, and the same command goes on from."""


def checked_output(options: OutputOptions, files: Collection[str], *, unfinished: Collection[str] = ()) -> Path | None:
    """The folder to write to, if it may be written to; None where none was given. Nothing is written.

    To a folder that another verb has filled, which has a file ``run.json``, files are added.

    Parameters
    ----------
    options
        The options.
    files
        Names of the files and folders that the verb will write.
    unfinished
        Names of those that an interrupted run of the same verb may have left.

    Raises
    ------
    ConfigError
        It holds something that would be replaced, or that is not ours, and ``--force`` is not given.
    ReportAccessError
        It cannot be written.
    """
    if options.output is None:
        return None
    place = folder_to_write(options.output, "--output", ReportAccessError)
    if not place.exists():
        return place
    if not place.is_dir():
        raise ReportAccessError(f"--output {shown(options.output)}: expected a folder or a new one, found a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ReportAccessError(f"--output {shown(options.output)}: the folder is not writable")
    present = {path.name for path in place.iterdir() if not is_draft(path.name)}
    replaced = sorted(present & set(files) - {RUN})
    if options.force or present <= set(unfinished):
        return place
    if replaced:
        raise ConfigError(
            f"--output {shown(options.output)}: holds {listed(replaced)} already: choose another folder, or --force to "
            "replace what is there"
        )
    if present and RUN not in present:
        raise ConfigError(
            f"--output {shown(options.output)}: the folder is not empty, it holds {listed(sorted(present))}: choose "
            "another one, or --force to write to it"
        )
    return place


def required_output(options: OutputOptions, files: Collection[str], *, unfinished: Collection[str] = ()) -> Path:
    """As `checked_output`, for a verb whose result is files.

    Raises
    ------
    ConfigError
        None was given, besides.
    """
    folder = checked_output(options, files, unfinished=unfinished)
    if folder is None:
        raise ConfigError("--output is missing: give a folder to write to")
    return folder


def check_no_decomposition(folder: Path | None) -> None:
    """Check that a verb that makes no decomposition does not replace one.

    Parameters
    ----------
    folder
        The output folder; None for none.

    Raises
    ------
    ConfigError
        It holds a decomposition.
    """
    if folder is not None and (folder / INFO).exists():
        raise ConfigError(f"--output {shown(folder)}: holds a decomposition, {INFO}: choose another folder")


def check_decomposition_of(folder: Path | None, decomposed: str | None) -> None:
    """Check that a report is of the decomposition that lies beside it, if there is one.

    Parameters
    ----------
    folder
        The output folder; None for none.
    decomposed
        What ``--decomposed`` gives.

    Raises
    ------
    ConfigError
        It is of another one.
    """
    if folder is None or not (folder / INFO).exists():
        return
    place = None if decomposed is None else Path(decomposed).resolve()
    if place not in (folder, folder / INFO):
        raise ConfigError(
            f"--output {shown(folder)}: holds another decomposition than the one that is run: choose another folder, "
            f"or give --decomposed {shown(folder)}"
        )


def cleared(path: Path) -> Path:
    """The path of a journal, with no file there any more, nor the plan beside it.

    Parameters
    ----------
    path
        Of the journal.
    """
    for name in (path.name, f"{path.name}.plan"):
        path.with_name(name).unlink(missing_ok=True)
    return path
