"""Payloads that the state needs no more, until their time is over.

Owns the queues of released payloads and of superseded weights, by the block time at which each may
go, in a database so that a restart knows them. Who is in them several times, as pulled and then as
decided, goes with the last of these times. Superseded weights are kept for whoever asks for
those of an earlier block: they make room, the oldest first, when the payload store fills up. Never
drops what the state or a pending transaction needs: it asks first.
"""

from collections.abc import Callable, Iterable

import trio
from quorate.chain.ids import HASH_BYTES, Hash

from store.database import Batch, Database
from store.payload_contract import Payloads

_PREFIX = b"R"
_WEIGHTS_PREFIX = b"W"
_LAST_PREFIX = b"L"
"""Payload to the latest of its times, which are as many as payloads in an hour: on the disk."""
_TIME_BYTES = 8
CROWDED_PART = 0.75
"""The part of the payload store's limit above which superseded weights go before their time."""
UNDECIDED_KEPT_MS = 600_000
"""How long a payload is kept at least that was pulled for a transaction, in block time."""
DROPPED_PER_BLOCK_MAX = 256
"""Payloads dropped at one block, beside as many as were released since the block before: a queue
never grows for as long as blocks release more than this. The rest waits for the next."""


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
        The payloads that pending transactions name, and those that undecided results are.
    bytes_max : int, optional
        The limit of the payload store; without one, weights never go before their time.
    """

    def __init__(
        self,
        database: Database,
        payloads: Payloads,
        is_needed: Callable[[Hash], bool],
        get_pending: Callable[[], frozenset[Hash]],
        bytes_max: int | None = None,
    ) -> None:
        self._database = database
        self._payloads = payloads
        self._is_needed = is_needed
        self._get_pending = get_pending
        self._bytes_max = bytes_max
        self._released_count = 0
        self._has_dropped = trio.Event()

    async def run(self) -> None:
        """Free what was dropped, in a thread, until cancelled.

        A file system may take a tenth of a second for one file, and a vote would wait for it. One
        at a time, so that whoever stops the node waits for one alone; the next start frees the
        rest.

        Raises
        ------
        StorageError
            If it cannot be freed; the node stops.
        """
        while True:
            await self._has_dropped.wait()
            self._has_dropped = trio.Event()
            while await trio.to_thread.run_sync(self._payloads.free_deleted):
                pass

    def release(self, payload_hashes: Iterable[Hash], due_ms: int) -> None:
        """Let payloads go at a block time, in milliseconds."""
        self._put(_PREFIX, payload_hashes, due_ms)

    def release_undecided(self, payload_hash: Hash, time_ms: int) -> None:
        """Let a payload go a while after a block time, unless a block names it until then."""
        self.release((payload_hash,), time_ms + UNDECIDED_KEPT_MS)

    def release_weights(self, roots: Iterable[Hash], due_ms: int) -> None:
        """Let superseded weights go at a block time, or before it if space runs out."""
        self._put(_WEIGHTS_PREFIX, roots, due_ms)

    def drop_due(self, time_ms: int) -> int:
        """Drop what is due at a block time; return how many payloads went."""
        count_max = DROPPED_PER_BLOCK_MAX + self._released_count
        self._released_count = 0
        dropped = self._drop(_PREFIX, time_ms, count_max, lambda: False)
        dropped += self._drop(_WEIGHTS_PREFIX, time_ms, count_max, self._is_crowded)
        if dropped:
            self._has_dropped.set()
        return dropped

    def _put(self, prefix: bytes, payload_hashes: Iterable[Hash], due_ms: int) -> None:
        batch = Batch()
        for payload_hash in payload_hashes:
            self._put_one(batch, prefix, payload_hash, due_ms)
            self._released_count += 1
        if batch.operations:
            self._database.write(batch, sync=False)

    def _drop(
        self, prefix: bytes, time_ms: int, count_max: int, is_early: Callable[[], bool]
    ) -> int:
        """Drop what a queue has that is due, and more of it for as long as that is wanted."""
        batch = Batch()
        dropped = looked = 0
        due = prefix + time_ms.to_bytes(_TIME_BYTES, "big")
        pending: frozenset[Hash] | None = None
        for key, _ in self._database.iterate(prefix, _get_end(prefix)):
            if (key >= due and not is_early()) or looked >= count_max:
                break
            looked += 1
            due_ms, payload_hash = _decode(key)
            pending = self._get_pending() if pending is None else pending
            batch.delete(key)
            if due_ms < self._get_last_due(payload_hash):
                # It is in a queue once more, with a later time.
                continue
            batch.delete(_LAST_PREFIX + payload_hash)
            if self._is_needed(payload_hash):
                # The state will let it go when its time comes.
                pass
            elif payload_hash in pending:
                # Its transaction may be dropped, and nobody would let go of the payload then.
                again_ms = time_ms + UNDECIDED_KEPT_MS
                self._put_one(batch, prefix, payload_hash, again_ms)
            elif self._payloads.delete(payload_hash, is_lazy=True):
                dropped += 1
        if batch.operations:
            self._database.write(batch, sync=False)
        return dropped

    def _put_one(self, batch: Batch, prefix: bytes, payload_hash: Hash, due_ms: int) -> None:
        due = due_ms.to_bytes(_TIME_BYTES, "big")
        batch.put(prefix + due + payload_hash, b"")
        if due_ms >= self._get_last_due(payload_hash):
            batch.put(_LAST_PREFIX + payload_hash, due)

    def _get_last_due(self, payload_hash: Hash) -> int:
        return int.from_bytes(self._database.get(_LAST_PREFIX + payload_hash) or b"", "big")

    def _is_crowded(self) -> bool:
        limit = self._bytes_max
        return limit is not None and self._payloads.bytes_total > CROWDED_PART * limit

    def release_unknown(self, due_ms: int, voted: frozenset[Hash] = frozenset()) -> int:
        """Let every payload go that nobody knows: not state, queue, mempool, nor a voted-for block.

        A power failure may have taken from the queue what the last blocks have released. Others
        still need that to execute these blocks, so it stays as if it was released now.

        Parameters
        ----------
        due_ms : int
            The block time at which they go.
        voted : frozenset of bytes, optional
            The payloads named by the blocks in the log.

        Returns
        -------
        int
            How many.
        """
        known = self._get_pending().union(voted, self._list_queued())
        unknown = [
            name
            for payload_hash in self._payloads.iterate_hashes()
            if (name := Hash(payload_hash)) not in known and not self._is_needed(name)
        ]
        self.release(unknown, due_ms)
        return len(unknown)

    def _list_queued(self) -> set[Hash]:
        """Return what is in a queue; what an older version has put there gets its latest time."""
        queued: dict[Hash, int] = {}
        for prefix in (_PREFIX, _WEIGHTS_PREFIX):
            for key, _ in self._database.iterate(prefix, _get_end(prefix)):
                due_ms, payload_hash = _decode(key)
                queued[payload_hash] = max(due_ms, queued.get(payload_hash, 0))
        batch = Batch()
        for payload_hash, due_ms in queued.items():
            if due_ms > self._get_last_due(payload_hash):
                batch.put(_LAST_PREFIX + payload_hash, due_ms.to_bytes(_TIME_BYTES, "big"))
        if batch.operations:
            self._database.write(batch, sync=False)
        return set(queued)


def _decode(key: bytes) -> tuple[int, Hash]:
    """Return the time and the hash that a key says."""
    return int.from_bytes(key[-HASH_BYTES - _TIME_BYTES : -HASH_BYTES], "big"), Hash(
        key[-HASH_BYTES:]
    )


def _get_end(prefix: bytes) -> bytes:
    return prefix + b"\xff" * (_TIME_BYTES + HASH_BYTES)
