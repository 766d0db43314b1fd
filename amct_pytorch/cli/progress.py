"""The progress bar: on stderr, and on a terminal alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from .._run.progress import ProgressFunction
from .options import GeneralOptions


@contextlib.contextmanager
def progress_bar(task: str, general: GeneralOptions) -> Iterator[ProgressFunction | bool]:
    """What to give as ``progress`` to a function: draws a bar, or nothing without a terminal or with ``--quiet``.

    Parameters
    ----------
    task
        What is being done.
    general
        The options that every verb has.
    """
    if general.quiet or not sys.stderr.isatty():
        yield False
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        number = bar.add_task(task, total=None)

        def advance(done: int, total: int, name: str) -> None:
            bar.update(number, completed=done, total=total, description=f"{task}: {name}")

        yield advance
