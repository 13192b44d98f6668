"""Where the committed entries of the state are.

Owns what the ledger asks of a store, and a store in memory. Never decodes an entry.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from ledger.tree import compute_bucket


class StateReader(Protocol):
    """Where the committed entries are; `store.ChainStore` is one."""

    def get_state(self, bucket: int, key: bytes) -> bytes | None:
        """Return the value of a key that lies in `bucket`, or None."""

    def iterate_bucket(self, bucket: int) -> Iterator[tuple[bytes, bytes]]:
        """Walk over a bucket's (key, value), sorted by key."""

    def iterate_state(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Walk over all (bucket, key, value), sorted by bucket, then key."""


class DictReader:
    """Entries in memory: for tests and simulation.

    Parameters
    ----------
    entries : mapping of bytes to bytes
    bucket_count : int
    """

    def __init__(self, entries: Mapping[bytes, bytes], bucket_count: int) -> None:
        self.bucket_count = bucket_count
        self._buckets: dict[int, dict[bytes, bytes]] = {}
        self.apply(entries)

    def apply(self, writes: Mapping[bytes, bytes | None]) -> None:
        """Take over a result's writes."""
        for key, value in writes.items():
            bucket = self._buckets.setdefault(compute_bucket(key, self.bucket_count), {})
            if value is None:
                bucket.pop(key, None)
            else:
                bucket[key] = value

    def get_state(self, bucket: int, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        return self._buckets.get(bucket, {}).get(key)

    def iterate_bucket(self, bucket: int) -> Iterator[tuple[bytes, bytes]]:
        """Walk over a bucket's (key, value), sorted by key."""
        return iter(sorted(self._buckets.get(bucket, {}).items()))

    def iterate_state(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Walk over all (bucket, key, value), sorted by bucket, then key."""
        for bucket in sorted(self._buckets):
            for key, value in self.iterate_bucket(bucket):
                yield bucket, key, value
