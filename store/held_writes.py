"""A database whose latest batches may wait in memory, to be written together.

Owns the batches that wait, and reads that see them already. One batch is written for all of them,
so that after a crash either none of them took place or all did, in whatever order the database's
own files reach the disk: LevelDB alone promises that of a single batch only. Never writes by
itself: the caller bounds what waits.
"""

import heapq
import threading
from collections.abc import Iterator
from operator import itemgetter

from store.database import Batch, Database


class HeldWrites:
    """A `Database` over another one, with a door for batches that may wait.

    Parameters
    ----------
    database : Database
        Where everything is in the end. The caller closes it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: dict[bytes, bytes | None] = {}
        self._held_bytes = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """The bytes of all keys and values that wait; one that was replaced counts, too."""
        return self._held_bytes

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None.

        Raises
        ------
        StorageError
        """
        # What no longer waits is in the database already, so this order misses nothing.
        held = self._held
        return held[key] if key in held else self._database.get(key)

    def iterate(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the entries with start <= key < stop, as they are at the call.

        Raises
        ------
        StorageError
        """
        with self._lock:
            held = {key: value for key, value in self._held.items() if start <= key < stop}
            stored = self._database.iterate(start, stop, reverse=reverse)
        return _merge(held, stored, reverse=reverse) if held else stored

    def hold(self, batch: Batch) -> None:
        """Let a batch take effect for readers, and wait for the next `write` or `flush`."""
        with self._lock:
            self._held.update(batch.operations)
            self._held_bytes += batch.get_bytes()

    def flush(self) -> None:
        """Write all that waits in one batch, and return once it is durable.

        Raises
        ------
        StorageError
            Nothing further can be written.
        """
        if self._held:
            self.write(Batch(), sync=True)

    def write(self, batch: Batch, *, sync: bool) -> None:
        """Apply all that waits and then a batch, all or nothing.

        Raises
        ------
        StorageError
            Nothing further can be written.
        """
        with self._lock:
            if self._held:
                whole = Batch()
                whole.operations += [*self._held.items(), *batch.operations]
                self._database.write(whole, sync=sync)
                # Replaced, not emptied: a reader may be looking at it.
                self._held, self._held_bytes = {}, 0
            else:
                self._database.write(batch, sync=sync)

    def close(self) -> None:
        """Do nothing: whoever opened the database closes it, and what waits is given up."""


def _merge(
    held: dict[bytes, bytes | None], stored: Iterator[tuple[bytes, bytes]], *, reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    newer = [(key, value) for key, value in held.items() if value is not None]
    newer.sort(reverse=reverse)
    older = (entry for entry in stored if entry[0] not in held)
    return heapq.merge(newer, older, key=itemgetter(0), reverse=reverse)
