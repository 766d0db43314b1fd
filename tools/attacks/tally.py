"""What the attempts of one kind came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Failure = tuple[Literal["wrong", "litter", "bare"], str]
"""A kind of failure, and what it was, in words."""

_SHOWN = 5  # failures of a kind that are shown in words


@dataclass
class Tally:
    """Counts of attempts.

    Attributes
    ----------
    kind
        What was attacked, and how.
    tried
        Number of attempts.
    wrong
        Of those in which another result than the right one came without an error, something of the user's had
        changed, or an error did not say what is wrong, or took too long.
    litter
        Of those that left something beside the target.
    bare
        Of those that ended with an exception that is none of the library's.
    examples
        What some of the failures were, in words.
    """

    kind: str
    tried: int = 0
    wrong: int = 0
    litter: int = 0
    bare: int = 0
    examples: list[str] = field(default_factory=list)

    def count(self, attempt: str, failures: Sequence[Failure] = ()) -> None:
        """Count an attempt, by the worst of its failures.

        Parameters
        ----------
        attempt
            What was attempted.
        failures
            What came of it that should not have; empty if it ended as it should.
        """
        self.tried += 1
        kinds = [kind for kind, _ in failures]
        self.wrong += "wrong" in kinds
        self.bare += "bare" in kinds and "wrong" not in kinds
        self.litter += set(kinds) == {"litter"}
        if failures and len(self.examples) < _SHOWN:
            self.examples.append(f"{attempt}: {'; '.join(f'{kind}: {what}' for kind, what in failures)}")

    @property
    def right(self) -> int:
        """Number of attempts that ended as they should."""
        return self.tried - self.wrong - self.litter - self.bare
