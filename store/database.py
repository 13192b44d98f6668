"""An ordered map of bytes to bytes: LevelDB on disk, or its twin in memory.

LevelDB runs with paranoid checks, every read is verified against its checksum, and all of its
errors are told in the store's own terms. After a failed write it takes no further one until it is
opened again: LevelDB would append behind half a record.

Owns the map. Never knows what a key means.
"""

import threading
from bisect import bisect_left, insort
from collections.abc import Iterator
from os import close as close_descriptor
from pathlib import Path
from typing import Protocol

import plyvel
from quorate.chain.errors import InvariantError, StorageError

from store.disk import lock_folder, make_folder, translated_errors
from store.errors import DatabaseDamaged, DatabaseLocked, StorageClosed
from store.level_errors import CHAIN_WAY_OUT, describe_damage, translate_level_error

BLOCK_CACHE_BYTES = 16 << 20
WRITE_BUFFER_BYTES = 8 << 20
TABLE_BYTES = 8 << 20
OPEN_FILES_MAX = 256
BLOOM_FILTER_BITS = 10
BATCH_BYTES_MAX = 256 << 20
"""Keys and values of one batch; writers of more split it."""

_INSERTIONS_ONE_BY_ONE = 64


class Batch:
    """Puts and deletes that take effect together, in their order.

    Attributes
    ----------
    operations : list of (bytes, bytes or None)
        Key and new value; None deletes. Append to it directly where speed matters.
    """

    __slots__ = ("operations",)

    def __init__(self) -> None:
        self.operations: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        """Give a key a value."""
        self.operations.append((key, value))

    def delete(self, key: bytes) -> None:
        """Remove a key; it may be absent."""
        self.operations.append((key, None))

    def get_bytes(self) -> int:
        """Return the bytes of all keys and values."""
        return sum(len(key) + len(value or b"") for key, value in self.operations)


class Database(Protocol):
    """An ordered map of bytes to bytes. Safe for many reading threads and one writing one."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        ...

    def iterate(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the entries with start <= key < stop, as they are at the call."""
        ...

    def write(self, batch: Batch, *, sync: bool) -> None:
        """Apply a batch, all or nothing; with `sync`, return once it is durable."""
        ...

    def close(self) -> None:
        """Let go of files and locks; closing again does nothing."""
        ...


class _Cursor(Protocol):
    """plyvel's raw iterator: a snapshot with a position, whose every step checks the status.

    The plain iterator stops at an unreadable table as if the entries ended there, and in reverse
    misses an entry at `start` that is alone in its range.
    """

    def seek(self, key: bytes) -> None: ...

    def seek_to_last(self) -> None: ...

    def valid(self) -> bool: ...

    def item(self) -> tuple[bytes, bytes]: ...

    def next(self) -> None: ...

    def prev(self) -> None: ...

    def close(self) -> None: ...


class LevelDatabase:
    """A database in a folder, for one process at a time.

    Parameters
    ----------
    folder : Path
        Created when absent.
    way_out : str
        What may be done if it is damaged and there is no backup; the end of a sentence.

    Raises
    ------
    DatabaseLocked
        Another process, or another part of this one, has it open.
    DatabaseDamaged
        The files are not what LevelDB wrote.
    DiskFull, StorageInaccessible
    """

    def __init__(self, folder: Path, way_out: str = CHAIN_WAY_OUT) -> None:
        self._folder = folder
        self._way_out = way_out
        make_folder(folder)
        # LevelDB's own lock is lost as soon as anything else in this process opens and closes
        # its LOCK file, so this one is what counts.
        lock = lock_folder(folder)
        if lock is None:
            raise DatabaseLocked(
                f"The database in {folder} is in use by another process: stop that one first, or "
                "give this node a home folder of its own."
            )
        self._lock = lock
        try:
            self._level = _open_level(folder, way_out)
        except BaseException:
            # Whatever went wrong, the lock must not outlive the attempt.
            close_descriptor(lock)
            raise
        self._get = self._level.get
        self._writing = threading.Lock()
        self._is_writable = True

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None.

        Raises
        ------
        DatabaseDamaged, StorageInaccessible, StorageClosed
        """
        try:
            value: bytes | None = self._get(key, verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            raise self._translate(error) from error
        return value

    def iterate(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the entries with start <= key < stop, as they are at the call.

        Raises
        ------
        DatabaseDamaged, StorageInaccessible, StorageClosed
        """
        try:
            cursor: _Cursor = self._level.raw_iterator(verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            raise self._translate(error) from error
        walk = _walk_backward if reverse else _walk_forward
        return self._iterate(cursor, walk(cursor, start, stop))

    def write(self, batch: Batch, *, sync: bool) -> None:
        """Apply a batch, all or nothing; with `sync`, return once it is durable.

        Raises
        ------
        DiskFull, StorageInaccessible, DatabaseDamaged
            Nothing further can be written until the database is opened again.
        StorageClosed
        InvariantError
            The batch is larger than `BATCH_BYTES_MAX`.
        """
        _check_batch(batch)
        # One at a time: after a write that failed, no other may follow.
        with self._writing:
            if not self._is_writable:
                raise StorageClosed(
                    f"The database in {self._folder} is closed, or an earlier write to it failed: "
                    "start the node again once the disk has room and works."
                )
            self._is_writable = False
            try:
                level_batch = self._level.write_batch(sync=sync)
                put, delete = level_batch.put, level_batch.delete
                for key, value in batch.operations:
                    if value is None:
                        delete(key)
                    else:
                        put(key, value)
                level_batch.write()
            except (plyvel.Error, RuntimeError) as error:
                raise self._translate(error) from error
            self._is_writable = True

    def close(self) -> None:
        """Close the files and release the lock; closing again does nothing.

        A write that another thread is at ends first: LevelDB does not survive the other order.
        """
        with self._writing:
            self._is_writable = False
            self._level.close()
        if self._lock >= 0:
            close_descriptor(self._lock)
            self._lock = -1

    def _translate(self, error: Exception) -> StorageError:
        return translate_level_error(error, self._folder, self._way_out)

    def _iterate(
        self, cursor: _Cursor, entries: Iterator[tuple[bytes, bytes]]
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from entries
        except (plyvel.Error, RuntimeError) as error:
            raise self._translate(error) from error
        finally:
            cursor.close()


class MemoryDatabase:
    """A database in memory, for tests and simulations."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._is_open = True

    def reopen(self) -> "MemoryDatabase":
        """Return the database as the next process finds it; this one is closed."""
        self.close()
        successor = MemoryDatabase()
        successor._values, successor._keys = self._values, self._keys
        return successor

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None.

        Raises
        ------
        StorageClosed
        """
        self._require_open()
        return self._values.get(key)

    def iterate(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the entries with start <= key < stop, as they are at the call.

        Raises
        ------
        StorageClosed
        """
        self._require_open()
        keys = self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, stop)]
        if reverse:
            keys.reverse()
        return iter([(key, self._values[key]) for key in keys])

    def write(self, batch: Batch, *, sync: bool) -> None:  # noqa: ARG002 - memory is never durable
        """Apply a batch, all or nothing.

        Raises
        ------
        StorageClosed
        InvariantError
            The batch is larger than `BATCH_BYTES_MAX`.
        """
        _check_batch(batch)
        self._require_open()
        values = self._values
        added = {key for key, _ in batch.operations if key not in values}
        for key, value in batch.operations:
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        if len(added) > _INSERTIONS_ONE_BY_ONE:
            self._keys.extend(added)
            self._keys.sort()
        else:
            for key in added:
                insort(self._keys, key)
        if len(self._keys) != len(values):
            self._keys = [key for key in self._keys if key in values]

    def close(self) -> None:
        """Refuse everything from now on."""
        self._is_open = False

    def _require_open(self) -> None:
        if not self._is_open:
            raise StorageClosed("The database in memory is closed.")


def _open_level(folder: Path, way_out: str) -> plyvel.DB:
    with translated_errors(folder):
        names = {path.name for path in folder.iterdir()}
    has_data = any(name.startswith("MANIFEST-") or name.endswith(".ldb") for name in names)
    if has_data and "CURRENT" not in names:
        # LevelDB would take the folder for an empty one and delete what is in it.
        raise DatabaseDamaged(describe_damage(folder, "the file CURRENT is missing", way_out))
    try:
        return plyvel.DB(
            str(folder),
            create_if_missing=True,
            paranoid_checks=True,
            lru_cache_size=BLOCK_CACHE_BYTES,
            write_buffer_size=WRITE_BUFFER_BYTES,
            max_file_size=TABLE_BYTES,
            max_open_files=OPEN_FILES_MAX,
            bloom_filter_bits=BLOOM_FILTER_BITS,
        )
    except plyvel.Error as error:
        raise translate_level_error(error, folder, way_out) from error


def _walk_forward(cursor: _Cursor, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor.seek(start)
    while cursor.valid():
        entry = cursor.item()
        if entry[0] >= stop:
            return
        yield entry
        cursor.next()


def _walk_backward(cursor: _Cursor, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor.seek(stop)
    if cursor.valid():
        cursor.prev()
    else:
        cursor.seek_to_last()
    while cursor.valid():
        entry = cursor.item()
        if entry[0] < start:
            return
        yield entry
        cursor.prev()


def _check_batch(batch: Batch) -> None:
    size = batch.get_bytes()
    if size > BATCH_BYTES_MAX:
        raise InvariantError(f"A batch of {size} bytes exceeds the limit of {BATCH_BYTES_MAX}.")
