"""The journal: what this node has accepted from its own users and is still pending.

Owns the durable copy, with the payloads small enough to lie beside it. A record is durable before
its submitter is told "pending", and concurrent submissions share one sync. Removal is lazy: a
record that a crash brings back is judged again at the start. Never judges anything itself.

It needs a database of its own, which nothing else writes to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Final

import trio
from msgspec import Meta, Struct
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError, StorageError
from quorate.chain.ids import Hash
from quorate.chain.transaction import TRANSACTION_BYTES_MAX, compute_transaction_hash

from store.database import Batch, Database
from store.errors import DatabaseDamaged, FormatUnknown

PAYLOAD_JOURNALED_BYTES_MAX: Final = 65_536
"""Payloads up to this size are journaled; larger ones are durable as files by themselves."""

GROUP_BYTES_MAX: Final = 32 << 20
"""Bytes that share one sync; further submissions wait for the next."""

RECORD_BYTES_MAX: Final = TRANSACTION_BYTES_MAX + PAYLOAD_JOURNALED_BYTES_MAX + 64

JOURNAL_WAY_OUT: Final = (
    "move the folder data/mempool away and start the node again: what users submitted here and no "
    "block holds yet must then be submitted again"
)
"""What may be done about a damaged journal, if there is no backup of it."""

_FORMAT_KEY: Final = b"format"
_FORMAT: Final = b"quorate/mempool/1"
_RECORDS: Final = b"r"
_RECORDS_END: Final = b"s"
_SEQUENCE_BYTES: Final = 8


def count_records(database: Database) -> int:
    """Return how many accepted transactions a journal holds, without reading them."""
    return sum(1 for _ in database.iterate(_RECORDS, _RECORDS_END))


class JournalRecord(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """An accepted transaction, with its payload if that is small."""

    raw: Annotated[bytes, Meta(min_length=1, max_length=TRANSACTION_BYTES_MAX)]
    payload: Annotated[bytes, Meta(max_length=PAYLOAD_JOURNALED_BYTES_MAX)] | None

    @property
    def hash(self) -> Hash:
        """The transaction's hash."""
        return compute_transaction_hash(self.raw)


@dataclass(slots=True, eq=False)
class _Group:
    """Records that share one sync."""

    batch: Batch = field(default_factory=Batch)
    hashes: list[Hash] = field(default_factory=list)
    bytes: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    is_durable: bool = False


class Journal:
    """Accepted transactions on the disk.

    Parameters
    ----------
    database : Database
        For the journal alone; the caller closes it.

    Raises
    ------
    FormatUnknown
        The journal was written by another version of this program.
    StorageError
        The database cannot be read or written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = trio.Lock()
        self._group: _Group | None = None
        self._in_flight: dict[Hash, _Group] = {}
        self._keys: dict[Hash, bytes] = {}
        self._doomed: list[bytes] = []
        self._next_sequence = 0
        self.sync_count = 0
        self._check_format()

    def __len__(self) -> int:
        return len(self._keys)

    def load(self) -> Iterator[JournalRecord]:
        """Return what was accepted before, in its order; once, before the first `append`.

        Raises
        ------
        DatabaseDamaged
            If a record cannot be read.
        """
        doubles = Batch()
        for key, value in self._database.iterate(_RECORDS, _RECORDS_END):
            try:
                record = decode(JournalRecord, value, RECORD_BYTES_MAX)
            except DecodeError as error:
                raise DatabaseDamaged(
                    f"The mempool's journal holds a record that cannot be read ({error}): "
                    f"{JOURNAL_WAY_OUT}."
                ) from error
            self._next_sequence = int.from_bytes(key[len(_RECORDS) :], "big") + 1
            if self._keys.setdefault(record.hash, key) is not key:
                doubles.delete(key)
                continue
            yield record
        if doubles.operations:
            self._database.write(doubles, sync=False)

    async def append(self, records: Sequence[JournalRecord]) -> None:
        """Make records durable; those that are already, or are about to be, are not written again.

        Cancelling the caller does not undo the write.

        Raises
        ------
        StorageError
            If they could not be made durable.
        """
        awaited: dict[int, _Group] = {}
        mine: list[_Group] = []
        for record in records:
            transaction_hash = record.hash
            group = self._in_flight.get(transaction_hash)
            if group is None:
                if transaction_hash in self._keys:
                    continue
                group, is_new = self._add(record, transaction_hash)
                if is_new:
                    mine.append(group)
            awaited[id(group)] = group
        with trio.CancelScope(shield=True):
            # Whoever opened a group writes it: bounded by the time of the syncs before it.
            for group in mine:
                await self._write(group)
        for group in awaited.values():
            await group.done.wait()
            if not group.is_durable:
                raise StorageError(
                    "The mempool's journal could not be written, so the transaction is not "
                    "accepted: start the node again once the disk has room and works."
                )
        await trio.lowlevel.checkpoint()

    def delete(self, hashes: Sequence[Hash]) -> None:
        """Forget records; at once in memory, on the disk with the next write at the latest.

        Raises
        ------
        StorageError
            If the database cannot be written.
        """
        for transaction_hash in hashes:
            key = self._keys.pop(transaction_hash, None)
            if key is not None:
                self._doomed.append(key)
        if self._doomed and not self._lock.locked():
            self._sweep()

    def _add(self, record: JournalRecord, transaction_hash: Hash) -> tuple[_Group, bool]:
        value = encode(record)
        group, is_new = self._group, False
        if group is None or group.bytes + len(value) > GROUP_BYTES_MAX:
            group = self._group = _Group()
            is_new = True
        key = _RECORDS + self._next_sequence.to_bytes(_SEQUENCE_BYTES, "big")
        self._next_sequence += 1
        group.batch.put(key, value)
        group.bytes += len(value)
        group.hashes.append(transaction_hash)
        self._in_flight[transaction_hash] = group
        return group, is_new

    async def _write(self, group: _Group) -> None:
        try:
            async with self._lock:
                if self._group is group:
                    self._group = None
                await trio.to_thread.run_sync(partial(self._database.write, group.batch, sync=True))
                group.is_durable = True
                self.sync_count += 1
                for (key, _), transaction_hash in zip(
                    group.batch.operations, group.hashes, strict=True
                ):
                    self._keys[transaction_hash] = key
                self._sweep()
        finally:
            for transaction_hash in group.hashes:
                del self._in_flight[transaction_hash]
            group.done.set()

    def _sweep(self) -> None:
        if not self._doomed:
            return
        batch = Batch()
        for key in self._doomed:
            batch.delete(key)
        self._doomed.clear()
        self._database.write(batch, sync=False)

    def _check_format(self) -> None:
        stored = self._database.get(_FORMAT_KEY)
        if stored is None:
            batch = Batch()
            batch.put(_FORMAT_KEY, _FORMAT)
            self._database.write(batch, sync=True)
        elif stored != _FORMAT:
            raise FormatUnknown(
                f"The mempool's journal has the format {stored[:40]!r}, this version knows "
                f"{_FORMAT!r}: start the version that wrote it."
            )
