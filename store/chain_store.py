"""What a chain has decided: blocks, their indexes, the state, and documents at past heights.

One decided block is one synced batch: after a crash the store is at the height before it or at its
own, with everything that belongs to it. Blocks below a height can be pruned; the state is always
that of the last height alone, and the last few blocks can be taken back.

Owns the keys (see `store.layout`) and the order of heights. Never knows what a block, a receipt, a
state key or a document means.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from quorate.chain.errors import InvariantError
from quorate.chain.ids import HASH_BYTES, INT64_MAX

from store import layout
from store.chain_facts import check_format, decode_facts, describe_contradiction, encode_facts
from store.database import Batch, Database
from store.documents import (
    check_documents,
    find_old_versions,
    find_versions_at,
    get_document_key,
    load_version,
)
from store.errors import DatabaseDamaged
from store.held_writes import HeldWrites
from store.layout import encode_height, get_range
from store.undo import describe_missing, has_undo, load_undo, record_undo

CHUNK_OPERATIONS = 20_000
CHUNK_BYTES = 8 << 20
"""When the long work of initializing and pruning writes what it has so far."""

_FORMAT_KEY = layout.META + b"format"
_CHAIN_KEY = layout.META + b"chain"
_FORMAT_BYTES = 4
_BY_HEIGHT = (
    layout.BLOCK,
    layout.COMMIT,
    layout.RECEIPTS,
    layout.BLOCK_HASH,
    layout.TRANSACTION_HASHES,
    layout.UNDO,
)


@dataclass(slots=True, frozen=True)
class DecidedBlock:
    """Everything that becomes durable when a height is decided.

    Attributes
    ----------
    height : int
    block_hash : bytes, 32
    block, commit, receipts : bytes
        The commit is that of this very block.
    transaction_hashes : sequence of bytes, 32
        In the order of the block.
    state_writes : mapping of bytes to bytes or None
        The state entries that changed; None deletes.
    bucket_of : callable
        The bucket of a state key, below 2^32.
    documents : mapping of str to bytes
        Small named records (for example the validators) as of this height; those that are not
        given stay as they are.
    """

    height: int
    block_hash: bytes
    block: bytes
    commit: bytes
    receipts: bytes
    transaction_hashes: Sequence[bytes]
    state_writes: Mapping[bytes, bytes | None]
    bucket_of: Callable[[bytes], int]
    documents: Mapping[str, bytes] = field(default_factory=dict)


class ChainStore:
    """The decided chain in a database. Many threads may read while one writes.

    Parameters
    ----------
    database : Database
        The caller closes it.

    Raises
    ------
    FormatUnknown
        Another version of this program wrote the database.
    DatabaseDamaged
        The facts about the chain are missing or make no sense.
    """

    def __init__(self, database: Database) -> None:
        self._database = HeldWrites(database)
        self._initial_height = self._base = self._height = 0
        stored_format, chain = database.get(_FORMAT_KEY), database.get(_CHAIN_KEY)
        if stored_format is not None:
            check_format(stored_format)
        if (stored_format is None) is not (chain is None):
            raise DatabaseDamaged(describe_contradiction("half of its facts are missing"))
        if chain is not None:
            facts = decode_facts(chain)
            self._initial_height, self._base, self._height = facts

    @property
    def database(self) -> Database:
        """The database that this lies in, to read from."""
        return self._database

    @property
    def is_initialized(self) -> bool:
        """Whether the genesis is stored."""
        return self._initial_height > 0

    @property
    def initial_height(self) -> int:
        """The height of the first block, or 0 before the genesis is stored."""
        return self._initial_height

    @property
    def base(self) -> int:
        """The lowest height whose block is stored, or 0 when none is."""
        return self._base

    @property
    def height(self) -> int:
        """The last decided height, or 0 when nothing is decided."""
        return self._height

    def initialize(
        self,
        state: Mapping[bytes, bytes],
        bucket_of: Callable[[bytes], int],
        documents: Mapping[str, bytes],
        *,
        initial_height: int = 1,
    ) -> None:
        """Store the state and the documents from which the chain starts.

        A crash in the middle leaves a store that is not initialized.

        Parameters
        ----------
        state : mapping of bytes to bytes
        bucket_of : callable
            The bucket of a state key, below 2^32.
        documents : mapping of str to bytes
            Named records as of the height before the first block.
        initial_height : int
            The height of the first block, from 1.

        Raises
        ------
        InvariantError
            The store is initialized already, or an argument is out of bounds.
        StorageError
        """
        if self.is_initialized or not 0 < initial_height <= INT64_MAX:
            raise InvariantError(
                f"A store at initial height {self._initial_height} cannot start at "
                f"{initial_height}."
            )
        check_documents(documents)
        self._write_in_chunks(
            (key, None) for key, _ in self._database.iterate(*get_range(layout.STATE))
        )
        self._write_in_chunks(
            (_get_state_key(bucket_of(key), key), value) for key, value in state.items()
        )
        batch = Batch()
        for name, document in documents.items():
            batch.put(get_document_key(name, initial_height - 1), document)
        batch.put(_FORMAT_KEY, layout.FORMAT_VERSION.to_bytes(_FORMAT_BYTES, "big"))
        batch.put(_CHAIN_KEY, encode_facts(initial_height, 0, 0))
        self._database.write(batch, sync=True)
        self._initial_height = initial_height

    def commit(self, decided: DecidedBlock, *, is_held: bool = False) -> None:
        """Store a decided block with all that belongs to it, in one synced batch.

        Parameters
        ----------
        decided : DecidedBlock
        is_held : bool
            Whether the batch may wait in memory, and become durable with the next one that does
            not, or with `flush`. Readers see the block at once; a crash loses it.

        Raises
        ------
        InvariantError
            It is not the next height, a hash has not 32 bytes, or a document is out of bounds.
        StorageError
            The store is still at the height before.
        """
        height, hashes = decided.height, decided.transaction_hashes
        expected = self._height + 1 if self._height else self._initial_height
        if height != expected or not self.is_initialized:
            raise InvariantError(f"Height {height} cannot follow: height {expected} is next.")
        if any(len(block_hash) != HASH_BYTES for block_hash in (decided.block_hash, *hashes)):
            raise InvariantError(f"Height {height} has a hash that is not {HASH_BYTES} bytes long.")
        check_documents(decided.documents)
        at_height = encode_height(height)
        batch = Batch()
        batch.operations += (
            (layout.BLOCK + at_height, decided.block),
            (layout.COMMIT + at_height, decided.commit),
            (layout.RECEIPTS + at_height, decided.receipts),
            (layout.BLOCK_HASH + at_height, decided.block_hash),
            (layout.TRANSACTION_HASHES + at_height, b"".join(hashes)),
            (layout.HEIGHT_BY_HASH + decided.block_hash, at_height),
        )
        batch.operations += [
            (
                layout.TRANSACTION + transaction,
                at_height + index.to_bytes(layout.INDEX_BYTES, "big"),
            )
            for index, transaction in enumerate(hashes)
        ]
        bucket_of = decided.bucket_of
        writes = [
            (_get_state_key(bucket_of(key), key), value)
            for key, value in decided.state_writes.items()
        ]
        batch.operations += writes
        record_undo(self._database, batch, height, [key for key, _ in writes])
        for name, document in decided.documents.items():
            if load_version(self._database, name, height) != document:
                batch.put(get_document_key(name, height), document)
        base = self._base or height
        batch.put(_CHAIN_KEY, encode_facts(self._initial_height, base, height))
        if is_held:
            self._database.hold(batch)
        else:
            self._database.write(batch, sync=True)
        self._base, self._height = base, height

    @property
    def held_bytes(self) -> int:
        """The bytes of decided blocks, with all that belongs to them, that are not durable yet."""
        return self._database.held_bytes

    def flush(self) -> None:
        """Make all decided blocks durable, in one batch.

        Raises
        ------
        StorageError
            The store on the disk is as it was.
        """
        self._database.flush()

    def load_block(self, height: int) -> bytes | None:
        """Return the block of a height, or None when it is not decided or pruned."""
        return self._load(layout.BLOCK, height)

    def load_commit(self, height: int) -> bytes | None:
        """Return the commit that decided the block of a height, or None."""
        return self._load(layout.COMMIT, height)

    def load_receipts(self, height: int) -> bytes | None:
        """Return the receipts of the block of a height, or None."""
        return self._load(layout.RECEIPTS, height)

    def load_block_hash(self, height: int) -> bytes | None:
        """Return the hash of the block of a height, or None."""
        return self._load(layout.BLOCK_HASH, height)

    def find_height(self, block_hash: bytes) -> int | None:
        """Return the height of the block with that hash, or None."""
        value = self._database.get(layout.HEIGHT_BY_HASH + block_hash)
        return None if value is None else int.from_bytes(value, "big")

    def find_transaction(self, transaction_hash: bytes) -> tuple[int, int] | None:
        """Return the height of a transaction's block and its index in it, or None."""
        value = self._database.get(layout.TRANSACTION + transaction_hash)
        if value is None:
            return None
        at_height, index = value[: layout.HEIGHT_BYTES], value[layout.HEIGHT_BYTES :]
        return int.from_bytes(at_height, "big"), int.from_bytes(index, "big")

    def load_document(self, name: str, height: int | None = None) -> bytes | None:
        """Return a named document as of a height, or None.

        Parameters
        ----------
        name : str
        height : int, optional
            Between the height before `base` and `height`, both included (the former only while
            nothing is pruned); the latest by default. Outside there is no document.
        """
        if height is None:
            height = self._last_document_height
        elif not self._first_document_height <= height <= self._last_document_height:
            return None
        return load_version(self._database, name, height)

    def get_state(self, bucket: int, key: bytes) -> bytes | None:
        """Return the value of a state key at the last height, or None.

        Parameters
        ----------
        bucket : int
            `bucket_of(key)`.
        key : bytes
        """
        return self._database.get(_get_state_key(bucket, key))

    def iterate_bucket(self, bucket: int) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the keys and values of a bucket, as they are at the call, by key."""
        prefix = _get_state_key(bucket, b"")
        entries = self._database.iterate(*get_range(prefix))
        return ((key[len(prefix) :], value) for key, value in entries)

    def iterate_state(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Iterate over bucket, key and value of the whole state, as it is at the call, sorted."""
        first, last = len(layout.STATE), len(layout.STATE) + layout.BUCKET_BYTES
        return (
            (int.from_bytes(key[first:last], "big"), key[last:], value)
            for key, value in self._database.iterate(*get_range(layout.STATE))
        )

    def prune(self, retain_height: int) -> int:
        """Remove the blocks below a height, their indexes, and documents older than it needs.

        After a crash in the middle the lower ones are gone; pruning again removes the rest.

        Parameters
        ----------
        retain_height : int
            The new `base`, at most the last decided height.

        Returns
        -------
        int
            How many heights were removed.

        Raises
        ------
        InvariantError
            Nothing would be left.
        StorageError
        """
        if not 0 <= retain_height <= self._height:
            raise InvariantError(f"Height {retain_height} cannot be kept: it is not decided.")
        pruned = max(0, retain_height - self._base)
        batch = Batch()
        for height in range(self._base, retain_height):
            self._delete_height(batch, height)
            if len(batch.operations) >= CHUNK_OPERATIONS or height + 1 == retain_height:
                facts = encode_facts(self._initial_height, height + 1, self._height)
                batch.put(_CHAIN_KEY, facts)
                self._database.write(batch, sync=True)
                self._base = height + 1
                batch = Batch()
        if pruned:
            self._write_in_chunks(find_old_versions(self._database, self._base))
        return pruned

    @property
    def can_roll_back(self) -> bool:
        """Whether the last decided block can be taken back."""
        is_parent_here = self._base < self._height or self._height == self._initial_height
        return self._height > 0 and is_parent_here and has_undo(self._database, self._height)

    def rollback(self) -> int:
        """Take back the last decided block with all that belongs to it, in one synced batch.

        Returns
        -------
        int
            The new last decided height; 0 when the first block was taken back.

        Raises
        ------
        NothingToUndo
            No block is stored, the one before was pruned, or what this one changed is not kept.
        StorageError
            The store is as it was.
        """
        height = self._height
        undo = load_undo(self._database, height) if self.can_roll_back else None
        is_first = height == self._initial_height
        if undo is None:
            raise describe_missing(height)
        batch = Batch()
        self._delete_height(batch, height)
        batch.operations += undo
        batch.operations += find_versions_at(self._database, height)
        base, before = (0, 0) if is_first else (self._base, height - 1)
        batch.put(_CHAIN_KEY, encode_facts(self._initial_height, base, before))
        self._database.write(batch, sync=True)
        self._base, self._height = base, before
        return before

    @property
    def _last_document_height(self) -> int:
        return self._height or max(0, self._initial_height - 1)

    @property
    def _first_document_height(self) -> int:
        """The height before the first block is as good as any while nothing is pruned."""
        is_pruned = self._base > self._initial_height
        return self._base if is_pruned else max(0, self._initial_height - 1)

    def _load(self, prefix: bytes, height: int) -> bytes | None:
        if not 0 < height <= self._height:
            return None
        return self._database.get(prefix + encode_height(height))

    def _delete_height(self, batch: Batch, height: int) -> None:
        at_height = encode_height(height)
        block_hash = self._load(layout.BLOCK_HASH, height)
        hashes = self._load(layout.TRANSACTION_HASHES, height)
        if block_hash is None or hashes is None:
            raise DatabaseDamaged(describe_contradiction(f"block {height} is missing"))
        batch.operations += [(prefix + at_height, None) for prefix in _BY_HEIGHT]
        batch.delete(layout.HEIGHT_BY_HASH + block_hash)
        batch.operations += [
            (layout.TRANSACTION + hashes[start : start + HASH_BYTES], None)
            for start in range(0, len(hashes), HASH_BYTES)
        ]

    def _write_in_chunks(self, operations: Iterator[tuple[bytes, bytes | None]]) -> None:
        batch, size = Batch(), 0
        for key, value in operations:
            batch.operations.append((key, value))
            size += len(key) + len(value or b"")
            if size >= CHUNK_BYTES or len(batch.operations) >= CHUNK_OPERATIONS:
                self._database.write(batch, sync=True)
                batch, size = Batch(), 0
        if batch.operations:
            self._database.write(batch, sync=True)


def _get_state_key(bucket: int, key: bytes) -> bytes:
    return layout.STATE + bucket.to_bytes(layout.BUCKET_BYTES, "big") + key
