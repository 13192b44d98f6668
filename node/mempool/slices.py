"""Long work in slices, so that votes and timers are never kept waiting.

Owns the length of a slice. Never knows what the work is.
"""

from time import perf_counter
from typing import Final

import trio

SLICE_S: Final = 0.002
"""Seconds of work between two looks at what else there is to do."""


class Slices:
    """Counts the time of the present slice; one for each piece of long work."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = perf_counter() + SLICE_S

    async def pause_if_due(self) -> None:
        """Let other tasks run if the slice is over, and begin the next one."""
        if perf_counter() >= self._end:
            await trio.lowlevel.checkpoint()
            self._end = perf_counter() + SLICE_S
