"""A database whose writes stay in memory, above one that is only read.

Owns the writes. Never changes the database below it.
"""

from bisect import bisect_left
from collections.abc import Iterator

from store.database import Batch, Database


class OverlayDatabase:
    """What a database would be after some writes.

    Parameters
    ----------
    below : Database
        Read, never written. The caller closes it.
    """

    def __init__(self, below: Database) -> None:
        self._below = below
        self._written: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None.

        Raises
        ------
        DatabaseDamaged, StorageInaccessible, StorageClosed
        """
        return self._written[key] if key in self._written else self._below.get(key)

    def iterate(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the entries with start <= key < stop, as they are at the call.

        Raises
        ------
        DatabaseDamaged, StorageInaccessible, StorageClosed
        """
        keys = sorted(self._written)
        keys = keys[bisect_left(keys, start) : bisect_left(keys, stop)]
        if reverse:
            keys.reverse()
        written = [(key, self._written[key]) for key in keys]
        below = self._below.iterate(start, stop, reverse=reverse)
        return _merge(written, below, reverse=reverse)

    def write(self, batch: Batch, *, sync: bool) -> None:  # noqa: ARG002 - it is never durable.
        """Apply a batch, in memory."""
        self._written.update(batch.operations)

    def close(self) -> None:
        """Forget the writes."""
        self._written.clear()


def _merge(
    written: list[tuple[bytes, bytes | None]],
    below: Iterator[tuple[bytes, bytes]],
    *,
    reverse: bool,
) -> Iterator[tuple[bytes, bytes]]:
    """Merge two ascending or descending rows; where both have a key, the first one counts."""
    position = 0
    for entry in below:
        while position < len(written) and (
            written[position][0] > entry[0] if reverse else written[position][0] < entry[0]
        ):
            key, value = written[position]
            position += 1
            if value is not None:
                yield key, value
        if position == len(written) or written[position][0] != entry[0]:
            yield entry
    for key, value in written[position:]:
        if value is not None:
            yield key, value
