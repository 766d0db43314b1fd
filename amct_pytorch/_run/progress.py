"""Progress of long work: a bar, calls of the user's function, or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ..errors import ConfigTypeError, MissingExtra, quoted

ProgressFunction = Callable[[int, int, str], object]
"""A progress function, called with (steps done, total steps, name of the layer just done)."""


@contextlib.contextmanager
def reporting(progress: bool | ProgressFunction, task: str) -> Iterator[ProgressFunction]:
    """The progress function that an argument means.

    Parameters
    ----------
    progress
        True draws a bar on stderr, False does nothing, a callable is used as it is.
    task
        Label of the bar.

    Raises
    ------
    ConfigTypeError
        The argument is neither a bool nor callable.
    MissingExtra
        ``progress=True``, and tqdm is not installed.
    """
    if callable(progress):
        yield progress
    elif progress is False:
        yield lambda done, total, name: None
    elif progress is True:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise MissingExtra("progress=True needs tqdm: pip install tqdm, or give a function") from error
        with tqdm(desc=task, unit="layer") as bar:

            def advance(done: int, total: int, name: str) -> None:
                bar.total = total
                bar.set_postfix_str(name, refresh=False)
                bar.update(done - bar.n)

            yield advance
    else:
        raise ConfigTypeError(
            f"progress must be True, False or a function of (done, total, name), found {quoted(progress)}"
        )


class Steps:
    """Counts the steps of work whose number is known beforehand.

    Parameters
    ----------
    report
        Called after each step.
    total
        Number of all steps.
    """

    def __init__(self, report: ProgressFunction, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def done(self, name: str) -> None:
        """Count and report a step; repeated steps never exceed the total.

        Parameters
        ----------
        name
            Name of the layer of this step.
        """
        self._done = min(self._done + 1, self._total)
        self._report(self._done, self._total, name)
