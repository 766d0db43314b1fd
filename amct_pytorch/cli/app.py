"""The program and its verbs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, cast

try:
    import typer
except ImportError as error:
    raise SystemExit("error: the command line needs packages: pip install 'amct_pytorch[cli]'") from error

from .. import __version__
from . import streams
from .bench import bench
from .command import Command, running
from .demo import demo
from .devices import devices
from .exit_codes import MEANINGS, ExitCode, code_of
from .export import export
from .finetune import finetune
from .plan import plan
from .rebuild import rebuild
from .report import report
from .run import run
from .search import search
from .session import print_error
from .validate import validate
from .verb import add_verb

_NAME = "amct-decompose"
_CODES = "; ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items())

app = typer.Typer(
    name=_NAME,
    help="Make a PyTorch network cheaper by tensor decomposition, and prove it on a device.",
    epilog=f"Exit codes: {_CODES}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"{_NAME} {__version__}")
        raise typer.Exit


# A verb is a line here: its function, from the module of its name, and the heading that it stands under in --help.
add_verb(app, demo, "Start")
add_verb(app, plan, "Decompose")
add_verb(app, run, "Decompose")
add_verb(app, search, "Decompose")
add_verb(app, rebuild, "Decompose")
add_verb(app, finetune, "Decompose")
add_verb(app, devices, "On a device")
add_verb(app, validate, "On a device")
add_verb(app, bench, "On a device")
add_verb(app, export, "On a device")
add_verb(app, report, "Report")


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


# The base of typer's own errors, which its public names do not include: UsageError's.
_CommandLineError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        What follows the name of the program; None for those of the process.

    Returns
    -------
    int
        The exit code, one of `ExitCode`.
    """
    streams.prepare()
    running.set(Command(_NAME, sys.argv[1:] if arguments is None else arguments))
    try:
        with streams.output_may_fail():
            code = app(arguments, prog_name=_NAME, standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    except _CommandLineError as error:
        message = error.format_message().strip()
        if message:  # none where there were no arguments, and the help was printed
            print(f"error: {message}", file=sys.stderr)
        return ExitCode.USAGE
    except KeyboardInterrupt as error:
        print_error(error)
        return code_of(error)
    return int(code or ExitCode.OK)


def main() -> None:
    """Run the program."""
    code = execute()
    streams.close()
    raise SystemExit(code)
