"""Pending transactions whose payloads are too large to ride along.

Owns the question whether enough validators have announced such a payload for a block to name it,
which somebody else answers. Never counts announcements.
"""

from collections.abc import Callable

import trio
from quorate.chain.ids import Hash

from node.mempool.pool import TransactionPool


class LargePayloads:
    """What is pending and large.

    Parameters
    ----------
    pool : TransactionPool
        The pending transactions.
    """

    def __init__(self, pool: TransactionPool) -> None:
        self._pool = pool
        self._has_new = trio.Event()
        self.is_announced: Callable[[Hash], bool] = lambda _payload_hash: True
        """Set by whoever counts announcements; without one, nothing waits for any."""

    @property
    def hashes(self) -> tuple[Hash, ...]:
        """The payloads, each once, in the order of arrival."""
        hashes = (entry.payload_hash for entry in self._pool.large)
        return tuple(dict.fromkeys(each for each in hashes if each is not None))

    @property
    def unannounced_count(self) -> int:
        """Pending transactions whose payloads too few validators have announced."""
        return sum(
            entry.payload_hash is not None and not self.is_announced(entry.payload_hash)
            for entry in self._pool.large
        )

    @property
    def ready_count(self) -> int:
        """Pending transactions that a block could hold now."""
        return max(0, self._pool.ready_count - self.unannounced_count)

    def signal(self) -> None:
        """Let `take_new` look again."""
        if self._pool.has_new_large:
            self._has_new.set()

    async def take_new(self) -> tuple[Hash, ...]:
        """Return the payloads of what has become pending since the last call; wait for it."""
        while not (taken := self._pool.take_new_large()):
            if self._has_new.is_set():
                self._has_new = trio.Event()
            await self._has_new.wait()
        await trio.lowlevel.checkpoint()
        return taken
