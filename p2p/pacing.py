"""Pacing: how fast bulk may leave, so that votes keep flowing.

Owns one budget of bytes per second for all links. Never delays anything urgent.
"""

from typing import Final

import trio

PIECE_BYTES: Final = 65507
"""Bytes written at a time: what fits one yamux frame and one noise packet."""

SLACK_S: Final = 0.005
"""What is due within as many seconds is sent at once: waking for each piece costs more than the
piece. Votes wait no longer than that for it."""

BURST_S: Final = 0.02
"""Budget of as many seconds may be saved up while nothing is sent."""


class Pacer:
    """A budget of bytes per second, given out in the order of asking.

    Parameters
    ----------
    bytes_per_s
        The budget.
    """

    __slots__ = ("_bytes_per_s", "_free_at")

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def get_delay(self, now: float) -> float:
        """Tell in how many seconds something may be sent."""
        return max(0.0, self._free_at - now)

    def charge(self, n_bytes: int, now: float) -> float:
        """Take `n_bytes` out of the budget; give the seconds to wait before sending them."""
        start = max(self._free_at, now - BURST_S)
        self._free_at = start + n_bytes / self._bytes_per_s
        return max(0.0, start - now)

    async def wait(self, n_bytes: int) -> None:
        """Take `n_bytes` out of the budget and wait until they may be sent, or nearly so."""
        delay = self.charge(n_bytes, trio.current_time())
        if delay > SLACK_S:
            await trio.sleep(delay)
