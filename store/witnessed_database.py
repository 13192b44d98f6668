"""A database that notices when what it had made durable is gone.

LevelDB takes the end of its own log for what a crash has left of a write, wherever the end is: a
log that was cut, emptied or lost is to it as good as a whole one. So the number of synced batches
is kept twice: in the database, in each such batch, and in a small file of its own beside the
tables. A database that knows of fewer batches than the file has lost something.

The file is not synced. After a power failure it may be behind the database, never ahead of it; so
it accuses no sound database. A file that is missing or damaged proves nothing and is written anew.

Owns that file and one key. Never looks at what else is in the database.
"""

import os
import struct
import threading
from collections.abc import Iterator
from os import close as close_descriptor
from pathlib import Path
from typing import Final

import google_crc32c

from store import disk
from store.database import Batch, LevelDatabase
from store.disk import translated_errors
from store.errors import DatabaseDamaged
from store.level_errors import describe_damage

WITNESS_NAME: Final = "SYNCED"
COUNT_KEY: Final = b"\xff\xffsynced"
"""Where the database keeps the number; its user keeps nothing from here on."""

_COUNT: Final = struct.Struct(">Q")
_WITNESS: Final = struct.Struct(">QI")


class WitnessedDatabase:
    """A `LevelDatabase` for what nobody else has a copy of.

    Parameters
    ----------
    folder : Path
        Created when absent.
    way_out : str
        What may be done if it is damaged and there is no backup; the end of a sentence.

    Raises
    ------
    DatabaseDamaged
        Also if batches that were synced are not in it.
    DatabaseLocked, DiskFull, StorageInaccessible
        As `LevelDatabase`.
    """

    def __init__(self, folder: Path, way_out: str) -> None:
        self._path = folder / WITNESS_NAME
        self._database = LevelDatabase(folder, way_out)
        self._writing = threading.Lock()
        try:
            stored = self._database.get(COUNT_KEY)
            self._count = _COUNT.unpack(stored)[0] if stored is not None else 0
            witnessed = _read_witness(self._path)
            if self._count < witnessed:
                detail = f"of {witnessed} synced writes it knows {self._count}"
                raise DatabaseDamaged(describe_damage(folder, detail, way_out))
            with translated_errors(self._path):
                self._descriptor = os.open(
                    self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600
                )
        except BaseException:
            # The lock must not outlive the attempt.
            self._database.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None; see `LevelDatabase.get`."""
        return self._database.get(key)

    def iterate(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the entries with start <= key < stop; see `LevelDatabase.iterate`."""
        return self._database.iterate(start, stop, reverse=reverse)

    def write(self, batch: Batch, *, sync: bool) -> None:
        """Apply a batch, all or nothing; with `sync`, return once it is durable and witnessed.

        Raises
        ------
        StorageError
            As `LevelDatabase.write`.
        """
        if not sync:
            self._database.write(batch, sync=False)
            return
        with self._writing:
            count = self._count + 1
            counted = Batch()
            counted.operations = [*batch.operations, (COUNT_KEY, _COUNT.pack(count))]
            self._database.write(counted, sync=True)
            self._count = count
            with translated_errors(self._path):
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                disk.write_all(self._descriptor, _pack_witness(count))

    def close(self) -> None:
        """Let go of files and locks; closing again does nothing."""
        with self._writing:
            self._database.close()
            if self._descriptor >= 0:
                close_descriptor(self._descriptor)
                self._descriptor = -1


def _pack_witness(count: int) -> bytes:
    return _WITNESS.pack(count, google_crc32c.value(_COUNT.pack(count)))


def _read_witness(path: Path) -> int:
    """Return the number in a file, or 0 if it says none."""
    with translated_errors(path):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return 0
    if len(raw) != _WITNESS.size:
        return 0
    count: int = _WITNESS.unpack(raw)[0]
    return count if raw == _pack_witness(count) else 0
