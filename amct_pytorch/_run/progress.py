"""Where long work stands: a bar, a call of the user's function, or silence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ..errors import ConfigTypeError, MissingExtra

Report = Callable[[int, int, str], object]
"""Called with (done, total, name of the layer just done)."""


@contextlib.contextmanager
def reporting(progress: bool | Report, task: str) -> Iterator[Report]:
    """What to call as work proceeds.

    Parameters
    ----------
    progress
        True draws a bar on stderr, a callable is called itself, False is silent.
    task
        What the bar says is going on.

    Raises
    ------
    ConfigTypeError
        It is neither.
    MissingExtra
        A bar is asked for, and tqdm is not installed.
    """
    if callable(progress):
        yield progress
    elif progress is False:
        yield lambda done, total, name: None
    elif progress is True:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise MissingExtra(
                "progress=True needs tqdm: pip install 'amct_pytorch[progress]', or give a function"
            ) from error
        with tqdm(desc=task, unit="layer") as bar:

            def advance(done: int, total: int, name: str) -> None:
                bar.total = total
                bar.set_postfix_str(name, refresh=False)
                bar.update(done - bar.n)

            yield advance
    else:
        raise ConfigTypeError(f"progress must be True, False or a function of (done, total, name), found {progress!r}")


class Steps:
    """Counts the steps of work whose number is known beforehand.

    Parameters
    ----------
    report
        Called after each step.
    total
        How many there are going to be.
    """

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def done(self, name: str) -> None:
        """Another step is done, that of this layer; one that has to be done again adds none."""
        self._done = min(self._done + 1, self._total)
        self._report(self._done, self._total, name)
