"""Standard output and error: symbols that an encoding lacks, a reader that has gone, and output that is JSON alone."""

from __future__ import annotations

import codecs
import io
import os
import sys

# Of our tables and of rich's, each as one character, so that columns stay aligned.
_PLAIN = str.maketrans("×→←↓↑–—─━│·•…±‖²°µ", "x><v^----|.*~+|2ou")


def prepare() -> None:
    """Have the standard streams replace what their encoding lacks, instead of failing."""
    codecs.register_error("amct-plain", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="amct-plain")


def drop_output() -> None:
    """Let what is still buffered for a reader that has gone go nowhere, so that Python does not complain at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return lacking.translate(_PLAIN).encode("ascii", "replace").decode(), error.end
