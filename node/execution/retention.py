"""Payloads that the state needs no more, until their time is over.

Owns the queue of released payloads, by the block time at which each may go, in a database so that
a restart knows it. Never drops what the state or a pending transaction needs: it asks first.
"""

from collections.abc import Callable, Iterable

from quorate.chain.ids import HASH_BYTES, Hash

from store.database import Batch, Database
from store.payload_contract import Payloads

_PREFIX = b"R"
_TIME_BYTES = 8
DROPPED_PER_BLOCK_MAX = 256
"""Payloads dropped at one block; the rest waits for the next."""


class Retention:
    """Drops released payloads when their time has come.

    Parameters
    ----------
    database : Database
        Keeps the queue.
    payloads : Payloads
        Where payloads are dropped.
    is_needed : callable
        Whether a payload is still needed; asked at the last moment.
    get_pending : callable
        The payloads that pending transactions name.
    """

    def __init__(
        self,
        database: Database,
        payloads: Payloads,
        is_needed: Callable[[Hash], bool],
        get_pending: Callable[[], frozenset[Hash]],
    ) -> None:
        self._database = database
        self._payloads = payloads
        self._is_needed = is_needed
        self._get_pending = get_pending

    def release(self, payload_hashes: Iterable[Hash], due_ms: int) -> None:
        """Let payloads go at a block time, in milliseconds."""
        batch = Batch()
        for payload_hash in payload_hashes:
            batch.put(_PREFIX + due_ms.to_bytes(_TIME_BYTES, "big") + payload_hash, b"")
        if batch.operations:
            self._database.write(batch, sync=False)

    def drop_due(self, time_ms: int) -> int:
        """Drop what is due at a block time; return how many payloads went."""
        batch = Batch()
        dropped = 0
        stop = _PREFIX + time_ms.to_bytes(_TIME_BYTES, "big")
        pending: frozenset[Hash] | None = None
        for key, _ in self._database.iterate(_PREFIX, stop):
            payload_hash = Hash(key[-HASH_BYTES:])
            pending = self._get_pending() if pending is None else pending
            is_needed = self._is_needed(payload_hash) or payload_hash in pending
            if not is_needed and self._payloads.delete(payload_hash):
                dropped += 1
            batch.delete(key)
            if len(batch.operations) >= DROPPED_PER_BLOCK_MAX:
                break
        if batch.operations:
            self._database.write(batch, sync=False)
        return dropped

    def sweep(self, voted: frozenset[Hash] = frozenset()) -> int:
        """Drop every payload that nobody knows: not state, queue, mempool, nor a voted-for block.

        Called at start, with the payloads named by the blocks in the log in `voted`.
        """
        stop = _PREFIX + b"\xff" * (_TIME_BYTES + HASH_BYTES)
        retained = {key[-HASH_BYTES:] for key, _ in self._database.iterate(_PREFIX, stop)}
        kept = retained | self._get_pending() | voted
        return self._payloads.sweep(
            lambda payload_hash: payload_hash in kept or self._is_needed(Hash(payload_hash))
        )
