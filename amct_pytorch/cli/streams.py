"""Standard output and error: where there is none, symbols that an encoding lacks, and a reader that has gone."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from .._report.characters import in_encoding
from .exit_codes import ExitCode


def prepare() -> None:
    """Have the standard streams replace what their encoding lacks, and lose what nobody has opened them for."""
    codecs.register_error("amct-plain", _replaced)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the process
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="amct-plain")


@contextlib.contextmanager
def output_may_fail() -> Iterator[None]:
    """End the command with a code of its own where what the block prints cannot be written.

    Where the reader has gone (``| head``) it ends quietly, as other commands do.

    Raises
    ------
    typer.Exit
        It cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered goes nowhere, or else Python complains at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(ExitCode.BROKEN_PIPE) from error
        print(f"error: the standard output cannot be written: {error.strerror}", file=sys.stderr)
        raise typer.Exit(ExitCode.FILE) from error


def reader_has_gone() -> bool:
    """Whether nobody reads the standard output any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


def close() -> None:
    """Have what the user's code prints when the process ends go to standard error: the output is complete."""
    with contextlib.suppress(typer.Exit), output_may_fail():
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # there is no standard error
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_encoding(error.object[error.start : error.end], "ascii"), error.end
