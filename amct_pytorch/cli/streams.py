"""Standard output and error: symbols that an encoding lacks, a reader that has gone, and output that is JSON alone."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator

import typer

from .._report.characters import in_encoding
from .exit_codes import ExitCode


def prepare() -> None:
    """Have the standard streams replace what their encoding lacks, instead of failing."""
    codecs.register_error("amct-plain", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="amct-plain")


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """End the command quietly, as others end, where the reader of what the block prints has gone (``| head``).

    Raises
    ------
    typer.Exit
        It has gone.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError as error:
        # What is still buffered goes nowhere, or else Python complains at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise typer.Exit(ExitCode.BROKEN_PIPE) from error


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_encoding(error.object[error.start : error.end], "ascii"), error.end
