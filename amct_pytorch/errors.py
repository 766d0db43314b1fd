"""The exceptions and the warning of amct_pytorch.

Each exception is also the builtin that fits it, so an existing ``except ValueError`` keeps working::

    AmctError
    ├── ModelError (TypeError)               this object cannot be decomposed as a whole
    ├── LayerError (ValueError)              named layers are not what the operation needs
    ├── InputsError (ValueError)             the model cannot be run on the given inputs
    ├── ConfigError (ValueError)             a setting is wrong
    │   └── ConfigTypeError (TypeError)      it is of the wrong type
    ├── InfoFileError (ValueError)           the content of a decomposition information file is wrong
    ├── InfoFileAccessError (OSError)        the file cannot be read or written
    │   └── InfoFileNotFound (FileNotFoundError)
    ├── PlanFileError (ValueError)           the content of a file of a plan or of settings is wrong
    ├── PlanFileAccessError (OSError)        such a file cannot be read or written
    ├── CheckpointError (ValueError)         a checkpoint is damaged, or not of this model
    │   └── CheckpointInfoError              its information file is, so it is an InfoFileError too
    ├── CheckpointAccessError (OSError)      a checkpoint cannot be read or written
    ├── MissingExtra (ImportError)           an optional dependency is not installed
    ├── BackendUnavailable (RuntimeError)    there is no such device here
    ├── DeviceError (RuntimeError)           the device cannot do what is asked of it
    ├── ExportError (RuntimeError)           the model cannot be exported
    ├── ExportAccessError (OSError)          what was exported cannot be written
    ├── ReportAccessError (OSError)          a report cannot be written
    └── ProcessFailed (RuntimeError)         another process of the group failed, or is gone

    AmctWarning (UserWarning)                worth knowing, but the result is right
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Collection
from pathlib import Path
from types import FrameType

_PACKAGE = str(Path(__file__).parent) + os.sep
_NAMED = 3  # of a long list of names, the first few show what it is about


class AmctError(Exception):
    """Base of every exception that amct_pytorch raises on purpose."""


class ModelError(AmctError, TypeError):
    """The object given as model cannot be decomposed as a whole."""


class LayerError(AmctError, ValueError):
    """Layers of the model are not what the operation needs; the message names them."""


class InputsError(AmctError, ValueError):
    """The model cannot be run on the given inputs; the cause is the model's own error."""


class ConfigError(AmctError, ValueError):
    """A setting has the wrong type or value, or names no layer of the model."""


class ConfigTypeError(ConfigError, TypeError):
    """A setting has the wrong type."""


class InfoFileError(AmctError, ValueError):
    """The content of a decomposition information file is wrong; the message says where."""


class InfoFileAccessError(AmctError, OSError):
    """A decomposition information file cannot be read or written."""


class InfoFileNotFound(InfoFileAccessError, FileNotFoundError):
    """There is no decomposition information file at the given path."""


class PlanFileError(AmctError, ValueError):
    """The content of a file of a plan, or of settings, is wrong; the message says where."""


class PlanFileAccessError(AmctError, OSError):
    """A file of a plan, or of settings, cannot be read or written."""


class CheckpointError(AmctError, ValueError):
    """The content of a checkpoint is damaged, or does not fit the model; the message says which file or tensor."""


class CheckpointInfoError(CheckpointError, InfoFileError):
    """The content of the information file of a checkpoint is wrong, or not of this model; the message says where."""


class CheckpointAccessError(AmctError, OSError):
    """A checkpoint cannot be read or written."""


class MissingExtra(AmctError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class BackendUnavailable(AmctError, RuntimeError):
    """A backend is not installed, or there is no device for it here; the message says why."""


class DeviceError(AmctError, RuntimeError):
    """A device cannot do what is asked of it: its memory does not suffice, or a model cannot be moved or compiled."""


class ExportError(AmctError, RuntimeError):
    """A model cannot be exported; the message gives the exporter's reason, and the layer where it is known."""


class ExportAccessError(AmctError, OSError):
    """What was exported cannot be written where it was asked for."""


class ReportAccessError(AmctError, OSError):
    """A report, or a picture of it, cannot be written where it was asked for."""


class ProcessFailed(AmctError, RuntimeError):
    """Another process of the group has failed, with its message, or is gone. Nothing was changed here either."""


RankFailed = ProcessFailed
"""The former name of `ProcessFailed`, for code that was written with it."""


class AmctWarning(UserWarning):
    """Something the user should know; the result is right all the same."""


def warn_user(text: str) -> None:
    """Give an `AmctWarning` that points at the line of the user's which called into this package.

    A backend gives its warnings by it too. Its own lines are no user's line either: those of the package of whoever
    calls this are passed over like those of this one.
    """
    entered = sys._getframe(1)
    giver = _package_of(entered)
    frame: FrameType | None = entered
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE) or _package_of(frame) == giver:
            entered = frame
        frame = frame.f_back
    user = entered.f_back or entered
    while user.f_code.co_filename == contextlib.__file__ and user.f_back:  # a with statement of the user's
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
    """The package that a frame's code is in; the module where that is in none."""
    return frame.f_globals.get("__package__") or frame.f_globals.get("__name__")


def listed(names: Collection[str]) -> str:
    """The first few of some names, and how many more there are, for a message."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, list(names)[:_NAMED])) + more
