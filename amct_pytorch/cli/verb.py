"""How a function becomes a verb: it takes groups of options, and what it hands back is printed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer

from .exit_codes import ExitCode
from .groups import flattened
from .option_names import options_of
from .options import GeneralOptions
from .printing import print_result
from .result import Result
from .session import session
from .streams import output_may_fail


def add_verb(app: typer.Typer, verb: Callable[..., Result], panel: str) -> None:
    """Make a function a verb of the program, under its own name and with its docstring as help.

    Parameters
    ----------
    app
        The program.
    verb
        Takes groups of options, among them `GeneralOptions` as ``general``; returns its result, or raises an error of
        this package. It imports what needs torch when it is called, as ``--help`` and completion must not wait for it.
    panel
        Heading above the verb in the program's help.
    """

    @functools.wraps(verb)
    def run(general: GeneralOptions, **groups: Any) -> None:
        with output_may_fail():
            with session(general, options_of(verb)):
                result = verb(general=general, **groups)
            print_result(result, general)
        if not result.ok:
            raise typer.Exit(ExitCode.FAILED)

    app.command(rich_help_panel=panel, add_help_option=False)(flattened(run))
