"""The program and its verbs."""

from __future__ import annotations

import typer

app = typer.Typer(name="amct-decompose", no_args_is_help=True)


def main() -> None:
    """Run the program."""
    app()
