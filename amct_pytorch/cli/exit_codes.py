"""The exit codes of the command line, and which error ends with which."""

from __future__ import annotations

from enum import IntEnum

from .. import errors


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    MODEL = 3
    BUDGET = 4
    DEVICE = 5
    FILE = 6
    EXTRA = 7
    UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h
    INTERRUPTED = 130  # as shells report a process that SIGINT has ended
    BROKEN_PIPE = 141  # likewise SIGPIPE


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "done, but a check failed",
    ExitCode.USAGE: "wrong options or inputs",
    ExitCode.MODEL: "the model cannot be made, run or decomposed",
    ExitCode.BUDGET: "the budget cannot be met",
    ExitCode.DEVICE: "no such device, or it cannot do the work",
    ExitCode.FILE: "a file is wrong, or cannot be read or written",
    ExitCode.EXTRA: "an optional package is missing",
    ExitCode.UNEXPECTED: "an error of the program",
    ExitCode.INTERRUPTED: "interrupted",
}
"""What `--help` says of them."""

# The first class that an error is of decides.
_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (errors.BudgetError, ExitCode.BUDGET),
    (errors.ConfigError, ExitCode.USAGE),
    (errors.InputsError, ExitCode.USAGE),
    (errors.ModelError, ExitCode.MODEL),
    (errors.LayerError, ExitCode.MODEL),
    (errors.ExportError, ExitCode.MODEL),
    (errors.MissingExtra, ExitCode.EXTRA),
    (errors.BackendUnavailable, ExitCode.DEVICE),
    (errors.DeviceError, ExitCode.DEVICE),
    (errors.AmctError, ExitCode.FILE),  # those that remain are of files
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)


def code_of(error: BaseException) -> ExitCode:
    """The exit code for an error.

    Parameters
    ----------
    error
        What ended the command.
    """
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.UNEXPECTED)
