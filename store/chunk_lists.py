"""The chunk hashes of large payloads, in the database beside the files that hold their bytes.

Owns the encoding of a list and a small cache of those in use. Never trusts a list further than
whoever put it: a list belongs to its payload's address before it comes here.

Lists are not synced. One that a power failure has taken is made again from the payload's file.
"""

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Final

from quorate.chain.ids import HASH_BYTES, Hash

from store import layout
from store.database import Batch, Database

CACHED_MAX: Final = 64
"""Lists kept in memory, of those that chunks were read by; the oldest makes room."""

_SIZE_BYTES = 8


class ChunkLists:
    """Sizes and chunk hashes by payload hash.

    Parameters
    ----------
    database : Database
        Where they lie.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cached: dict[bytes, bytes] = {}
        self._lock = Lock()

    def put(self, payload_hash: bytes, size: int, chunk_hashes: Sequence[Hash]) -> None:
        """Keep a list."""
        batch = Batch()
        value = size.to_bytes(_SIZE_BYTES, "big") + b"".join(chunk_hashes)
        batch.put(layout.CHUNK_LIST + payload_hash, value)
        self._database.write(batch, sync=False)
        with self._lock:
            self._cached.pop(payload_hash, None)

    def get(self, payload_hash: bytes) -> tuple[int, tuple[Hash, ...]] | None:
        """Return size and chunk hashes, or None."""
        value = self._load(payload_hash)
        return None if value is None else _decode(value)

    def get_hash(self, payload_hash: bytes, index: int) -> Hash | None:
        """Return the hash of one chunk, or None if there is no such list or chunk."""
        value = self._load(payload_hash)
        start = _SIZE_BYTES + index * HASH_BYTES
        if value is None or index < 0 or start >= len(value):
            return None
        return Hash(value[start : start + HASH_BYTES])

    def delete(self, payload_hash: bytes) -> None:
        """Remove a list."""
        batch = Batch()
        batch.delete(layout.CHUNK_LIST + payload_hash)
        self._database.write(batch, sync=False)
        with self._lock:
            self._cached.pop(payload_hash, None)

    def iterate(self) -> Iterator[tuple[bytes, int, tuple[Hash, ...]]]:
        """Iterate over payload hashes, sizes and chunk hashes, as they are at the call."""
        entries = self._database.iterate(*layout.get_range(layout.CHUNK_LIST))
        return ((key[len(layout.CHUNK_LIST) :], *_decode(value)) for key, value in entries)

    def _load(self, payload_hash: bytes) -> bytes | None:
        with self._lock:
            value = self._cached.get(payload_hash)
            if value is None:
                value = self._database.get(layout.CHUNK_LIST + payload_hash)
                if value is not None:
                    self._cached[payload_hash] = value
                    while len(self._cached) > CACHED_MAX:
                        del self._cached[next(iter(self._cached))]
        return value


def _decode(value: bytes) -> tuple[int, tuple[Hash, ...]]:
    starts = range(_SIZE_BYTES, len(value), HASH_BYTES)
    hashes = tuple(Hash(value[start : start + HASH_BYTES]) for start in starts)
    return int.from_bytes(value[:_SIZE_BYTES], "big"), hashes
