"""Run commands in this process, as `amct-decompose` would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from amct_pytorch.cli.app import execute

USER = Path(__file__).parent / "cli_user.py"
"""The user's file."""

NETWORK = f"{USER}:network"
SHAPE = ("--input", "2x3x8x8")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Ended]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command; the arguments are strings or paths."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = execute(list(map(str, arguments)))
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run
