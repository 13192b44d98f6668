"""Payloads, each under its content address: small ones in the database, large ones as files.

A large payload is a file (`payload_files`), which is mapped into memory for reading columns, and
may arrive chunk by chunk (`partial_files`). Small payloads may be staged in memory and made durable
together.

Owns the bytes, their limit in total, and what crashes leave behind. Never knows what a payload is
for: the caller says which to keep.
"""

import heapq
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quorate.chain.content import CHUNK_BYTES, compute_chunk_hashes
from quorate.chain.ids import Hash

from store import layout
from store.chunk_lists import ChunkLists
from store.database import Batch, Database
from store.disk import BytesLike, translated_errors
from store.partial_files import FilePartial
from store.partial_payload import (
    PartialPayload,
    PartialPayloads,
    validate_beginning,
)
from store.payload_contract import (
    INLINE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    TOTAL_BYTES_MAX,
    check_payload,
    check_space,
)
from store.payload_files import FILE_NAME, PayloadFiles

STAGED_BYTES_MAX = 8 << 20
"""Staged bytes at which they are made durable without being asked."""


def measure_payloads(database: Database, folder: Path) -> tuple[int, int]:
    """Return how many payloads are stored and their bytes together, changing nothing.

    Raises
    ------
    StorageInaccessible, DatabaseDamaged
    """
    sizes = [len(value) for _, value in database.iterate(*layout.get_range(layout.PAYLOAD))]
    with translated_errors(folder):
        if folder.exists():
            files = (path for path in folder.iterdir() if FILE_NAME.fullmatch(path.name))
            sizes += [path.stat().st_size for path in files]
    return len(sizes), sum(sizes)


class PayloadStore:
    """Payloads in a database and a folder.

    Parameters
    ----------
    database : Database
        For small payloads. The caller closes it, and by its lock keeps other processes away.
    folder : Path
        For large payloads; created when absent. Temporary files in it are swept.
    inline_bytes_max, payload_bytes_max, total_bytes_max : int
        Bytes of a small payload, of any one, and of all together.

    Raises
    ------
    StorageInaccessible, DatabaseDamaged
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        inline_bytes_max: int = INLINE_BYTES_MAX,
        payload_bytes_max: int = PAYLOAD_BYTES_MAX,
        total_bytes_max: int = TOTAL_BYTES_MAX,
    ) -> None:
        self._database = database
        self._inline_bytes_max = inline_bytes_max
        self._payload_bytes_max = payload_bytes_max
        self._total_bytes_max = total_bytes_max
        self._lock = threading.RLock()
        self._staged: dict[bytes, bytes] = {}
        self._staged_bytes = 0
        self._files = PayloadFiles(folder, ChunkLists(database))
        self._total = sum(len(value) for _, value in self._iterate_inline())
        self._total += sum(self._files.size(name) or 0 for name in self._files.list_hashes())
        self._partials = PartialPayloads(self._lock, self._reserve, self._give_back)
        self._files.restore_partials(self._make_partial, self._partials.restore)

    @property
    def bytes_total(self) -> int:
        """The bytes of all payloads together, with what is still to arrive."""
        return self._total

    def put(self, data: BytesLike, *, sync: bool = True) -> bytes:
        """Store a payload and return its hash; storing it again changes nothing.

        Parameters
        ----------
        data : bytes
        sync : bool
            Whether it is durable on return. Without it a small payload waits in memory for `sync`
            and is lost when the process dies before; a large one is durable either way.

        Raises
        ------
        PayloadTooLarge, PayloadSpaceExhausted
            Nothing was stored.
        DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        payload_hash, chunk_hashes = check_payload(data, self._payload_bytes_max)
        self._put(payload_hash, chunk_hashes, data, sync=sync)
        return payload_hash

    def put_expected(self, payload_hash: bytes, data: BytesLike, *, sync: bool = True) -> None:
        """Store a payload that was announced under a hash.

        Raises
        ------
        PayloadMismatch
            The bytes have another hash. Nothing was stored.
        PayloadTooLarge, PayloadSpaceExhausted
            Nothing was stored.
        DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        _, chunk_hashes = check_payload(data, self._payload_bytes_max, payload_hash)
        self._put(payload_hash, chunk_hashes, data, sync=sync)

    def sync(self) -> None:
        """Make durable what `has` tells of: what is staged, and names another thread just gave.

        Raises
        ------
        DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        self._files.sync_names()
        with self._lock:
            if not self._staged:
                return
            batch = Batch()
            batch.operations += [
                (layout.PAYLOAD + payload_hash, data) for payload_hash, data in self._staged.items()
            ]
            self._database.write(batch, sync=True)
            self._staged.clear()
            self._staged_bytes = 0

    def has(self, payload_hash: bytes) -> bool:
        """Return whether a payload is stored or staged.

        Raises
        ------
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        return self.size(payload_hash) is not None

    def get(self, payload_hash: bytes, *, verify: bool = True) -> bytes | None:
        """Return a payload, or None.

        Parameters
        ----------
        payload_hash : bytes, 32
        verify : bool
            Whether to compare the hash of what a file holds, which was right when it was stored.

        Raises
        ------
        PayloadDamaged
            The file no longer has its hash.
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        inline = self._get_inline(payload_hash)
        return self._files.read(payload_hash, verify=verify) if inline is None else inline

    def size(self, payload_hash: bytes) -> int | None:
        """Return the bytes of a payload, or None when it is not stored.

        Raises
        ------
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        inline = self._get_inline(payload_hash)
        return self._files.size(payload_hash) if inline is None else len(inline)

    def open_memmap(self, payload_hash: bytes, *, verify: bool = True) -> NDArray[np.uint8] | None:
        """Return a payload as a read-only array, or None; a large one is mapped from its file.

        The array stays valid after the payload is deleted.

        Parameters
        ----------
        payload_hash : bytes, 32
        verify : bool
            Whether to read the file once and compare its hash; what is read is not the map.

        Returns
        -------
        (size,) uint8, or None

        Raises
        ------
        PayloadDamaged
            The file no longer has its hash.
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        inline = self._get_inline(payload_hash)
        if inline is not None:
            return np.frombuffer(inline, dtype=np.uint8)
        return self._files.map(payload_hash, verify=verify)

    def begin(
        self,
        payload_hash: bytes,
        size: int,
        chunk_hashes: Sequence[Hash],
        *,
        is_size_sure: bool = False,
    ) -> PartialPayload:
        """Begin a payload that arrives chunk by chunk, or continue one that has begun.

        What has arrived survives a restart, but for chunks that a power failure takes.

        Parameters
        ----------
        payload_hash : bytes, 32
        size : int
        chunk_hashes : sequence of bytes, 32
        is_size_sure : bool
            Whether one that has begun with another size makes way, whatever has come of it.

        Raises
        ------
        PayloadMismatch
            The hashes do not belong to the address and the size, or a payload with this address is
            arriving that has another.
        PayloadTooLarge, PayloadSpaceExhausted
            Nothing has changed.
        DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        validate_beginning(payload_hash, size, chunk_hashes, self._payload_bytes_max)
        made = self._make_partial(payload_hash, size, tuple(map(Hash, chunk_hashes)))
        return self._partials.begin(
            made, lambda: self._files.begin(made), self.has, is_size_sure=is_size_sure
        )

    def get_partial(self, payload_hash: bytes) -> PartialPayload | None:
        """Return a payload that is arriving, or None."""
        return self._partials.get(payload_hash)

    def sweep_partials(self) -> int:
        """Drop what nobody has continued since the last call; return how many that was.

        Raises
        ------
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        return self._partials.sweep()

    def get_chunk_hashes(self, payload_hash: bytes) -> tuple[Hash, ...] | None:
        """Return the chunk hashes of a stored payload, or None.

        Raises
        ------
        PayloadDamaged
            They were lost, and the file no longer has its hash.
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        inline = self._get_inline(payload_hash)
        if inline is not None:
            return compute_chunk_hashes(inline)
        return self._files.get_chunk_hashes(payload_hash)

    def read_chunk(self, payload_hash: bytes, index: int) -> bytes | None:
        """Return one chunk of a stored payload, verified, or None if there is no such one.

        Raises
        ------
        PayloadDamaged
            The file no longer has that chunk.
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        inline = self._get_inline(payload_hash)
        if inline is None:
            return self._files.read_chunk(payload_hash, index)
        start = index * CHUNK_BYTES
        return inline[start : start + CHUNK_BYTES] if 0 <= start < len(inline) else None

    def delete(self, payload_hash: bytes, *, is_lazy: bool = False) -> bool:
        """Remove a payload, whole or arriving; return whether a whole one was stored.

        A crash soon afterwards may bring it back. LevelDB gives up the bytes of a small one at a
        later compaction.

        Parameters
        ----------
        payload_hash : bytes, 32
        is_lazy : bool
            Whether a file is left to `free_deleted`, since freeing a large one takes long.

        Raises
        ------
        DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        partial = self._partials.get(payload_hash)
        if partial is not None:
            partial.abandon()
        with self._lock:
            staged = self._staged.pop(payload_hash, None)
            if staged is not None:
                self._staged_bytes -= len(staged)
                self._total -= len(staged)
                return True
            inline = self._database.get(layout.PAYLOAD + payload_hash)
            if inline is not None:
                batch = Batch()
                batch.delete(layout.PAYLOAD + payload_hash)
                self._database.write(batch, sync=False)
                self._total -= len(inline)
                return True
            size = self._files.delete(payload_hash, is_lazy=is_lazy)
            if size is None:
                return False
            self._total -= size
            return True

    def free_deleted(self) -> bool:
        """Free one payload that was deleted lazily; return whether there was one.

        It may take long, so not on an event loop.

        Raises
        ------
        StorageInaccessible
        """
        return self._files.free_deleted()

    def iterate_hashes(self) -> Iterator[bytes]:
        """Iterate over the hashes of all payloads, ascending, as they are at the call.

        Raises
        ------
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        with self._lock:
            staged = sorted(self._staged)
            inline = (payload_hash for payload_hash, _ in self._iterate_inline())
            files = sorted(self._files.list_hashes())
        return heapq.merge(staged, inline, files)

    def _put(
        self,
        payload_hash: Hash | bytes,
        chunk_hashes: Sequence[Hash],
        data: BytesLike,
        *,
        sync: bool,
    ) -> None:
        size = memoryview(data).nbytes
        is_large = size > self._inline_bytes_max
        with self._lock:
            is_new = not self.has(payload_hash)
            if is_new:
                self._reserve(size)
                if not is_large:
                    self._staged[payload_hash] = bytes(data)
                    self._staged_bytes += size
            if sync or self._staged_bytes >= STAGED_BYTES_MAX:
                self.sync()
        if is_large and is_new:
            self._put_file(payload_hash, chunk_hashes, data)
        elif is_large:
            # Another thread may have renamed it just now, and not yet made its name durable.
            self._files.sync_names()
        partial = self._partials.get(payload_hash)
        if partial is not None:
            partial.supersede()

    def _put_file(self, payload_hash: bytes, chunk_hashes: Sequence[Hash], data: BytesLike) -> None:
        is_stored = False
        try:
            is_stored = self._files.put(payload_hash, chunk_hashes, data)
        finally:
            if not is_stored:
                self._give_back(memoryview(data).nbytes)

    def _reserve(self, size: int) -> None:
        check_space(self._total, size, self._total_bytes_max)
        self._total += size

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._total -= size

    def _make_partial(
        self, payload_hash: bytes, size: int, chunk_hashes: tuple[Hash, ...]
    ) -> FilePartial:
        return self._files.make_partial(
            payload_hash, size, chunk_hashes, self._adopt_partial, self._discard_partial
        )

    def _adopt_partial(self, partial: FilePartial) -> None:
        if partial.size > self._inline_bytes_max:
            is_stored = self._files.adopt(partial)
            self._partials.remove(partial, is_stored=is_stored)
            return
        with translated_errors(partial.path):
            data = partial.path.read_bytes()
        self._discard_partial(partial)
        self._put(partial.payload_hash, partial.chunk_hashes, data, sync=True)

    def _discard_partial(self, partial: FilePartial) -> None:
        with self._lock:
            # Together: whoever begins it again makes a file of the same name.
            self._partials.remove(partial, is_stored=False)
            self._files.discard(partial)

    def _get_inline(self, payload_hash: bytes) -> bytes | None:
        # In this order: what is no longer staged is in the database already.
        staged = self._staged.get(payload_hash)
        return self._database.get(layout.PAYLOAD + payload_hash) if staged is None else staged

    def _iterate_inline(self) -> Iterator[tuple[bytes, bytes]]:
        entries = self._database.iterate(*layout.get_range(layout.PAYLOAD))
        return ((key[len(layout.PAYLOAD) :], value) for key, value in entries)
