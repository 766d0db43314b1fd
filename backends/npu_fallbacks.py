"""The operators that torch_npu runs on the CPU, by what it says of them.

It has two ways to say so: a line on standard error, or a Python warning, each once a process for an operator.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

# The messages of torch_npu 2.12 and 2.13: "will fall back to run on the CPU", "will fallback to run on the CPU", "will
# fall back to CPU", "is running on CPU".
_MESSAGE = re.compile(r"fall ?back to (?:run on the )?CPU|running on CPU", re.IGNORECASE)

# The names in them: "operator 'aten::sinc'", "kernel [sinc]", "sinc is not supported by NPU".
_OPERATOR = r"\w+(?:\.\w+)?"
_NAMES = re.compile(rf"aten::({_OPERATOR})|kernel \[({_OPERATOR})\]|({_OPERATOR}) is not supported by NPU")

# Levels of TORCH_CPP_LOG_LEVEL at which C++ prints no warnings.
_ABOVE_WARNING = ("ERROR", "FATAL", "2", "3")

_DISABLE = "TORCH_NPU_FALLBACK_CPU_DISABLE"


def operators_in(message: str) -> list[str]:
    """The operators that a message says run on the CPU, each once; the message itself if it names none.

    Parameters
    ----------
    message
        A line of standard error, or the text of a warning.
    """
    if not _MESSAGE.search(message):
        return []
    names = [f"aten::{next(filter(None, groups))}" for groups in _NAMES.findall(message)]
    return list(dict.fromkeys(names)) or [message.strip()]


def caution(environment: Mapping[str, str]) -> str | None:
    """What the user must know of operators that run on the CPU without being named, in a sentence; None if nothing.

    Parameters
    ----------
    environment
        The variables of the process.
    """
    why = _why_silent(environment)
    if why is not None:
        return f"Operators that run on the CPU were not watched: {why}."
    if environment.get(_DISABLE) == "1":
        return None
    return (
        "torch_npu names an operator that runs on the CPU only once a process, so those that ran before are missing. "
        f"To be sure, run once with {_DISABLE}=1, set before Python starts, which makes an operator without a kernel "
        "an error."
    )


def _why_silent(environment: Mapping[str, str]) -> str | None:
    for variable in ("TORCH_NPU_WARNING_DISABLE", "TORCH_NPU_DISABLED_WARNING"):
        if variable in environment:
            if environment[variable] == "1":
                return f"{variable}=1 silences torch_npu: unset it"
            break  # the older name counts only without the newer one
    if environment.get("RANK", "0") != "0":
        return f"of the processes of a group only the first reports them, and this one has RANK={environment['RANK']}"
    level = environment.get("TORCH_CPP_LOG_LEVEL", "")
    if level.upper() in _ABOVE_WARNING:
        return f"TORCH_CPP_LOG_LEVEL={level} silences them: set it to WARNING"
    return None


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Name the operators that run on the CPU during a block, in a list that is filled when the block ends.

    Output to standard error appears when the block ends, and the warnings are issued then.
    """
    names: list[str] = []
    issued: list[tuple[Any, ...]] = []
    with _written_to_standard_error() as written, _caught_warnings(issued):
        yield names
    messages = [*written.decode(errors="replace").splitlines(), *(str(warning[0]) for warning in issued)]
    names.extend(dict.fromkeys(name for message in messages for name in operators_in(message)))
    for message, category, file, line in issued:
        warnings.warn_explicit(message, category, file, line)


@contextlib.contextmanager
def _caught_warnings(issued: list[tuple[Any, ...]]) -> Iterator[None]:
    """Keep the warnings of operators that run on the CPU, whatever the user's filters; all others go their way."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def keep(message: Any, category: Any, filename: str, lineno: int, *rest: Any, **more: Any) -> None:
            if _MESSAGE.search(str(message)):
                issued.append((message, category, filename, lineno))
            else:
                show(message, category, filename, lineno, *rest, **more)

        warnings.showwarning = keep
        warnings.filterwarnings("always", message=rf"(?s).*(?:{_MESSAGE.pattern})")
        yield


@contextlib.contextmanager
def _written_to_standard_error() -> Iterator[bytearray]:
    """What the process writes to standard error during a block, C++ code included; passed on when the block ends."""
    written = bytearray()
    try:
        original = os.dup(2)
    except OSError:  # closed, so nothing can be written
        yield written
        return
    _flush_standard_error()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield written
        finally:
            _flush_standard_error()
            os.dup2(original, 2)
            os.close(original)
            file.seek(0)
            written += file.read()
            with open(2, "wb", closefd=False) as standard_error:
                standard_error.write(written)


def _flush_standard_error() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
