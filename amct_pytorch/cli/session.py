"""What surrounds a verb: log, warnings, errors as single lines, and nothing but JSON on the standard output with it."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn, TextIO

import typer

from .._run.standard_output import printing_to_stderr
from ..errors import AmctError, AmctWarning, ReportAccessError
from .exit_codes import ExitCode, code_of
from .option_names import in_options
from .options import GeneralOptions
from .streams import reader_has_gone

_LOGGER = logging.getLogger("amct_pytorch")


@contextlib.contextmanager
def session(general: GeneralOptions, options: Mapping[str, str]) -> Iterator[None]:
    """Run a verb: its errors end as single lines on stderr and an exit code, its log goes where the user wants it.

    Parameters
    ----------
    general
        The options that every verb has.
    options
        Those of the verb by the parameters that they are for, see `options_of`.

    Raises
    ------
    typer.Exit
        The body raised an error.
    """
    try:
        with _logging(general, options), _own_output(general), warnings.catch_warnings():
            warnings.simplefilter("always", AmctWarning)
            warnings.showwarning = _shown_as_line(warnings.showwarning, options)
            yield
    except typer.Exit:
        raise
    except BrokenPipeError as error:
        if reader_has_gone():  # of tables that are printed on the way
            raise
        _end_with(error, general, options)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        _end_with(error, general, options)


def print_error(error: BaseException, options: Mapping[str, str] | None = None) -> None:
    """Print an error as one line on stderr.

    Parameters
    ----------
    error
        What ended the command.
    options
        See `session`; None where no verb has begun.
    """
    text = " ".join(str(error).split())
    if isinstance(error, AmctError):
        text = in_options(text, options or {})
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted; what is written is complete"
    elif code_of(error) == ExitCode.UNEXPECTED:
        text = f"unexpected {type(error).__name__}: {text}: run it again with --debug for the traceback"
    print(f"error: {text}", file=sys.stderr)


def _end_with(error: BaseException, general: GeneralOptions, options: Mapping[str, str]) -> NoReturn:
    if general.debug:
        traceback.print_exc()
    print_error(error, options)
    raise typer.Exit(code_of(error)) from error


@contextlib.contextmanager
def _logging(general: GeneralOptions, options: Mapping[str, str]) -> Iterator[None]:
    """Log to stderr, and to a file where one is given."""
    level = logging.ERROR if general.quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(general.verbose, 2)]
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setLevel(level)
    handlers[0].setFormatter(_Formatter("%(message)s", options))
    if general.log is not None:
        try:
            handlers.append(logging.FileHandler(general.log, encoding="utf-8"))
        except OSError as error:
            raise ReportAccessError(f"--log {general.log}: cannot be written: {error}") from error
        handlers[1].setLevel(min(level, logging.INFO))
        handlers[1].setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s", options))
    earlier = _LOGGER.level
    _LOGGER.setLevel(min(handler.level for handler in handlers))
    for handler in handlers:
        _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            _LOGGER.removeHandler(handler)
            handler.close()
        _LOGGER.setLevel(earlier)


class _Formatter(logging.Formatter):
    """Has what the log advises name options.

    Parameters
    ----------
    form
        See `logging.Formatter`.
    options
        See `session`.
    """

    def __init__(self, form: str, options: Mapping[str, str]) -> None:
        super().__init__(form)
        self._options = options

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """See `logging.Formatter`."""
        if record.levelno >= logging.WARNING:
            record.message = in_options(record.message, self._options)
        return super().formatMessage(record)


@contextlib.contextmanager
def _own_output(general: GeneralOptions) -> Iterator[None]:
    """With ``--json``, have what else is printed go to stderr: the standard output holds one object alone."""
    if not general.json:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr), printing_to_stderr():
        yield


def _shown_as_line(otherwise: Callable[..., None], options: Mapping[str, str]) -> Callable[..., None]:
    """How to show a warning: one of this package as a line of the log, others as before."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, AmctWarning):
            _LOGGER.warning("warning: %s", in_options(str(message), options))
        else:
            otherwise(message, category, filename, lineno, file, line)

    return show
