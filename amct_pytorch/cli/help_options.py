"""`--help`, and `--help-all` with the options that are seldom needed."""

from __future__ import annotations

import typer


def show_help(context: typer.Context, wanted: bool) -> bool:
    """Print the help of a verb, and end the command.

    Parameters
    ----------
    context
        Of the verb.
    wanted
        Whether ``--help`` was given.
    """
    if wanted and not context.resilient_parsing:
        print(context.get_help())
        raise typer.Exit
    return wanted


def show_all(context: typer.Context, wanted: bool) -> bool:
    """Print the help with every option, and end the command; see `show_help`."""
    if wanted:
        for parameter in context.command.params:
            parameter.hidden = False  # type: ignore[attr-defined]
    return show_help(context, wanted)
