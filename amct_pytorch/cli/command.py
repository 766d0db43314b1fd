"""The command that is being run, and when it began."""

from __future__ import annotations

import datetime
import shlex
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes
    ----------
    program, arguments
        As they were typed.
    began, clock
        When it began: by the calendar, and by the clock that measures how long it takes.
    """

    program: str
    arguments: Sequence[str]
    began: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc))
    clock: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return shlex.join([self.program, *self.arguments])


running: ContextVar[Command] = ContextVar("running")
"""The command that is being run."""
