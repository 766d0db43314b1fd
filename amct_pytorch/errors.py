"""The exceptions and the warning of amct_pytorch.

Each exception is also the builtin that fits it, so an existing ``except ValueError`` keeps working:

    AmctError
    ├── ModelError (TypeError)               this object cannot be decomposed as a whole
    ├── LayerError (ValueError)              named layers are not what the operation needs
    ├── InputsError (ValueError)             the model cannot be run on the given inputs
    ├── ConfigError (ValueError)             a setting is wrong
    │   ├── ConfigTypeError (TypeError)      a setting has the wrong type
    │   └── BudgetError                      a budget cannot be met
    ├── InfoFileError (ValueError)           the content of a decomposition information file is wrong
    ├── InfoFileAccessError (OSError)        the file cannot be read or written
    │   └── InfoFileNotFound (FileNotFoundError)
    ├── PlanFileError (ValueError)           the content of a plan file or a settings file is wrong
    ├── PlanFileAccessError (OSError)        such a file cannot be read or written
    ├── JournalError (ValueError)            the journal of a search is damaged, or of another search
    ├── JournalAccessError (OSError)         a journal cannot be read or written
    ├── CheckpointError (ValueError)         a checkpoint is damaged, or of another model
    │   └── CheckpointInfoError              its information file is, so it is an InfoFileError too
    ├── CheckpointAccessError (OSError)      a checkpoint cannot be read or written
    ├── MissingExtra (ImportError)           an optional dependency is not installed
    ├── BackendUnavailable (RuntimeError)    the backend or its device is not available here
    ├── DeviceError (RuntimeError)           the device cannot do the work: memory, moving, compiling
    ├── ExportError (RuntimeError)           the model cannot be exported
    ├── ExportAccessError (OSError)          exported files cannot be written
    ├── ReportAccessError (OSError)          a report cannot be written
    └── ProcessFailed (RuntimeError)         another process of the group failed, or is gone

    AmctWarning (UserWarning)                worth knowing, but the result is correct
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from types import FrameType

# Prefix of the paths of this package's source files.
_PACKAGE = str(Path(__file__).parent) + os.sep
_NAMED = 3  # names that a message quotes from a list; the others it counts
_LONGEST = 240  # characters of a name, a value or a path in a message: those of real models are far shorter


class AmctError(Exception):
    """Base of every exception that amct_pytorch raises on purpose."""


class ModelError(AmctError, TypeError):
    """The object passed as the model is not a module, or one that cannot be processed as a whole."""


class LayerError(AmctError, ValueError):
    """Layers of the model are not what the operation needs; the message names them."""


class InputsError(AmctError, ValueError):
    """The model cannot be run on the given inputs; the cause is the model's own error."""


class ConfigError(AmctError, ValueError):
    """A setting has the wrong type or value, or names no layer of the model."""


class ConfigTypeError(ConfigError, TypeError):
    """A setting has the wrong type."""


class BudgetError(ConfigError):
    """A budget cannot be met; ``least`` is the least share that can be."""

    def __init__(self, message: str, least: float) -> None:
        super().__init__(message, least)
        self.least = least

    def __str__(self) -> str:
        return str(self.args[0])


class InfoFileError(AmctError, ValueError):
    """The content of a decomposition information file is wrong; the message says where."""


class InfoFileAccessError(AmctError, OSError):
    """A decomposition information file cannot be read or written."""


class InfoFileNotFound(InfoFileAccessError, FileNotFoundError):
    """The given path has no decomposition information file."""


class PlanFileError(AmctError, ValueError):
    """The content of a plan file or a settings file is wrong; the message says where."""


class PlanFileAccessError(AmctError, OSError):
    """A plan file or a settings file cannot be read or written."""


class JournalError(AmctError, ValueError):
    """The journal of a search is damaged, or of a search for another model or with other settings."""


class JournalAccessError(AmctError, OSError):
    """The journal of a search cannot be read or written."""


class CheckpointError(AmctError, ValueError):
    """A checkpoint is damaged, or does not fit the model; the message names the file or the tensor."""


class CheckpointInfoError(CheckpointError, InfoFileError):
    """The content of the information file of a checkpoint is wrong, or not of this model; the message says where."""


class CheckpointAccessError(AmctError, OSError):
    """A checkpoint cannot be read or written."""


class MissingExtra(AmctError, ImportError):
    """An optional dependency is not installed; the message says what to install."""


class BackendUnavailable(AmctError, RuntimeError):
    """A backend is not installed, or has no usable device here; the message says why."""


class DeviceError(AmctError, RuntimeError):
    """A device cannot do the work: it runs out of memory, or a model cannot be moved to it or compiled for it."""


class ExportError(AmctError, RuntimeError):
    """A model cannot be exported; the message has the exporter's reason, and the name of the layer if known."""


class ExportAccessError(AmctError, OSError):
    """Exported files cannot be written to the given path."""


class ReportAccessError(AmctError, OSError):
    """A report, or a picture of it, cannot be written to the given path."""


class TrainingDiverged(AmctError, ArithmeticError):
    """A loss or a weight is no longer finite; the message says when, and what may help."""


class ProcessFailed(AmctError, RuntimeError):
    """Another process of the group failed, with its message, or ended. Nothing was changed in this process either."""


RankFailed = ProcessFailed
"""The former name of `ProcessFailed`, kept for existing code."""


class AmctWarning(UserWarning):
    """Something the user should know; the result is still correct."""


def warn_user(text: str) -> None:
    """Issue an `AmctWarning` attributed to the line of user code that called into this package.

    Backends use it too: frames of the caller's package are skipped like frames of this package.

    Parameters
    ----------
    text
        The message.
    """
    entered = sys._getframe(1)
    caller_package = _package_of(entered)
    frame: FrameType | None = entered
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE) or _package_of(frame) == caller_package:
            entered = frame
        frame = frame.f_back
    user = entered.f_back or entered
    while user.f_code.co_filename == contextlib.__file__ and user.f_back:  # the call is a with statement in user code
        user = user.f_back
    warnings.warn_explicit(
        text,
        AmctWarning,
        user.f_code.co_filename,
        user.f_lineno,
        module=user.f_globals.get("__name__"),
        registry=user.f_globals.setdefault("__warningregistry__", {}),
    )


def _package_of(frame: FrameType) -> str | None:
    """The package of a frame's code; for a module outside of any package, the module."""
    return frame.f_globals.get("__package__") or frame.f_globals.get("__name__")


def quoted(value: object) -> str:
    """A name or another value of the user's for a message: its repr in one line, and not all of it if it is long.

    Parameters
    ----------
    value
        Any object, even one whose repr fails.
    """
    try:
        text = repr(value)
    except Exception as error:  # of whatever type: the user's own, or Python's for a whole number of 5000 digits
        text = f"<{type(value).__name__} without a repr: {type(error).__name__}>"
    return shown(text)


def shown(text: object) -> str:
    """A path, or the words of another library, for a message: in one line, and not all of it if it is long.

    Parameters
    ----------
    text
        A string, or an object with one, such as a Path.
    """
    joined = " ".join(str(text).split("\n"))
    if len(joined) > _LONGEST:
        joined = f"{joined[: _LONGEST // 2]}...{joined[-_LONGEST // 2 + 3 :]}"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in joined)


def similar(name: str, known: Iterable[str]) -> list[str]:
    """The names that a user may have meant by one that is not known, the most similar first; three at most.

    Parameters
    ----------
    name
        What was given. For one far longer than any name there is no answer, as the search would take minutes.
    known
        The names that there are.
    """
    return difflib.get_close_matches(name, known, n=_NAMED) if len(name) <= _LONGEST else []


def listed(names: Collection[object]) -> str:
    """The first few names, quoted, and the number of the others, for a message.

    Parameters
    ----------
    names
        In the order to be shown.
    """
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(quoted, list(names)[:_NAMED])) + more
