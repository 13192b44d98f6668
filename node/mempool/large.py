"""Pending transactions whose payloads are too large to ride along.

Owns the question whether enough validators have announced such a payload for a block to name it,
which somebody else answers. Never counts announcements.
"""

from collections.abc import Callable
from typing import Protocol

import trio
from quorate.chain.ids import Hash

from node.mempool.pool import TransactionPool


class Announced(Protocol):
    """What is known of announcements."""

    def is_announced(self, payload_hash: Hash, /) -> bool:
        """Tell whether a block could name this payload."""

    def start_block(self) -> Callable[[Hash], bool]:
        """Return a test for the payloads of one block, asked for each one in turn.

        It tells whether the block may name this payload beside those that have passed before.
        """


class NothingToWaitFor:
    """Whatever is pending may be named."""

    def is_announced(self, _payload_hash: Hash, /) -> bool:
        """Return True."""
        return True

    def start_block(self) -> Callable[[Hash], bool]:
        """Return a test that everything passes."""
        return self.is_announced


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
        self.announced: Announced = NothingToWaitFor()
        """Set by whoever counts announcements; without one, nothing waits for any."""

    @property
    def hashes(self) -> tuple[Hash, ...]:
        """The payloads, each once, in the order of arrival."""
        hashes = (entry.payload_hash for entry in self._pool.large)
        return tuple(dict.fromkeys(each for each in hashes if each is not None))

    def is_announced(self, payload_hash: Hash) -> bool:
        """Tell whether a block could name this payload."""
        return self.announced.is_announced(payload_hash)

    @property
    def unannounced_count(self) -> int:
        """Pending transactions whose payloads too few validators have announced."""
        return sum(
            entry.payload_hash is not None and not self.announced.is_announced(entry.payload_hash)
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
