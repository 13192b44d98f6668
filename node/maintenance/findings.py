"""What a check of a node came to.

Owns the form of a finding and the way from an error to one. Never checks anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from quorate.chain.errors import QuorateError


class Level(StrEnum):
    """How a check went."""

    GOOD = "good"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes
    ----------
    check : str
        What was looked at.
    level : Level
    detail : str
        What was found; if it is not good, with the way out.
    """

    check: str
    level: Level
    detail: str


def find(check: str, look: Callable[[], Finding]) -> Finding:
    """Return what a look at something finds; an error that it raises is what is wrong."""
    try:
        return look()
    except (QuorateError, OSError) as error:
        return Finding(check, Level.WRONG, str(error))
