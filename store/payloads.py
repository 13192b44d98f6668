"""Payloads, each under its content address: small ones in the database, large ones as files.

A large payload is written to a temporary file, made durable and renamed, so that a file under a
payload's name is always whole; it is mapped into memory for reading columns. Small payloads may be
staged in memory and made durable together. What a file holds is checked against its hash whenever
it is read.

Owns the bytes, their limit in total, and what crashes leave behind. Never knows what a payload is
for: the caller says which to keep.
"""

import heapq
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quorate.chain.content import compute_content_hash

from store import layout
from store.database import Batch, Database
from store.disk import (
    TEMPORARY_SUFFIX,
    BytesLike,
    make_folder,
    sweep_temporary_files,
    sync_folder,
    translate_os_error,
    translated_errors,
    write_temporary,
)
from store.errors import PayloadDamaged
from store.payload_contract import (
    INLINE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    TOTAL_BYTES_MAX,
    check_payload,
    check_space,
)

STAGED_BYTES_MAX = 8 << 20
"""Staged bytes at which they are made durable without being asked."""

_FILE_NAME = re.compile(r"[0-9a-f]{64}")


def measure_payloads(database: Database, folder: Path) -> tuple[int, int]:
    """Return how many payloads are stored and their bytes together, changing nothing.

    Raises
    ------
    StorageInaccessible, DatabaseDamaged
    """
    sizes = [len(value) for _, value in database.iterate(*layout.get_range(layout.PAYLOAD))]
    with translated_errors(folder):
        if folder.exists():
            files = (path for path in folder.iterdir() if _FILE_NAME.fullmatch(path.name))
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
        self._folder = folder
        self._inline_bytes_max = inline_bytes_max
        self._payload_bytes_max = payload_bytes_max
        self._total_bytes_max = total_bytes_max
        self._lock = threading.RLock()
        self._staged: dict[bytes, bytes] = {}
        self._staged_bytes = 0
        self._temporary_count = 0
        make_folder(folder)
        sweep_temporary_files(folder)
        self._total = sum(len(value) for _, value in self._iterate_inline())
        with translated_errors(folder):
            self._total += sum(self._get_path(name).stat().st_size for name in self._list_files())

    @property
    def bytes_total(self) -> int:
        """The bytes of all payloads together."""
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
        payload_hash = check_payload(data, self._payload_bytes_max)
        self._put(payload_hash, data, sync=sync)
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
        check_payload(data, self._payload_bytes_max, payload_hash)
        self._put(payload_hash, data, sync=sync)

    def sync(self) -> None:
        """Make everything put so far durable; without anything staged, do nothing.

        Raises
        ------
        DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
        """
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

    def get(self, payload_hash: bytes) -> bytes | None:
        """Return a payload, verified, or None.

        Raises
        ------
        PayloadDamaged
            The file no longer has its hash.
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        inline = self._get_inline(payload_hash)
        if inline is not None:
            return inline
        path = self._get_path(payload_hash)
        with translated_errors(path):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
        self._verify_file(payload_hash, data)
        return data

    def size(self, payload_hash: bytes) -> int | None:
        """Return the bytes of a payload, or None when it is not stored.

        Raises
        ------
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        inline = self._get_inline(payload_hash)
        if inline is not None:
            return len(inline)
        # Every small payload that is put comes this way, so it is spared a Path of its own.
        try:
            return os.stat(f"{self._folder}/{payload_hash.hex()}").st_size  # noqa: PTH116
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translate_os_error(error, self._get_path(payload_hash)) from error

    def open_memmap(self, payload_hash: bytes, *, verify: bool = True) -> NDArray[np.uint8] | None:
        """Return a payload as a read-only array, or None; a large one is mapped from its file.

        The array stays valid after the payload is deleted.

        Parameters
        ----------
        payload_hash : bytes, 32
        verify : bool
            Whether to read a mapped file once and compare its hash.

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
        path = self._get_path(payload_hash)
        with translated_errors(path):
            try:
                if path.stat().st_size == 0:
                    # An empty file cannot be mapped; only damage leaves one.
                    self._verify_file(payload_hash, b"")
                mapped = np.memmap(path, dtype=np.uint8, mode="r")
            except FileNotFoundError:
                return None
        if verify:
            self._verify_file(payload_hash, mapped.data)
        return mapped

    def delete(self, payload_hash: bytes) -> bool:
        """Remove a payload; return whether it was stored.

        A crash soon afterwards may bring it back; `sweep` then finds it. LevelDB gives up the
        bytes of a small one at a later compaction.

        Raises
        ------
        DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        path = self._get_path(payload_hash)
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
            with translated_errors(path):
                try:
                    size = path.stat().st_size
                    path.unlink()
                except FileNotFoundError:
                    return False
            self._total -= size
            return True

    def iterate_hashes(self) -> Iterator[bytes]:
        """Iterate over the hashes of all payloads, ascending, as they are at the call.

        Raises
        ------
        StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        with self._lock:
            staged = sorted(self._staged)
            inline = (payload_hash for payload_hash, _ in self._iterate_inline())
            files = sorted(self._list_files())
        return heapq.merge(staged, inline, files)

    def sweep(self, keep: Callable[[bytes], bool]) -> int:
        """Remove the payloads that nobody keeps; return how many that was.

        For the start of a node, when no payload is being put: one that is not yet referred to
        would be swept.

        Parameters
        ----------
        keep : callable
            Whether a payload with that hash is still needed.

        Raises
        ------
        DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        swept = 0
        for payload_hash in self.iterate_hashes():
            if not keep(payload_hash):
                swept += self.delete(payload_hash)
        return swept

    def _put(self, payload_hash: bytes, data: BytesLike, *, sync: bool) -> None:
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
            self._put_file(payload_hash, data)
        elif is_large:
            # Another thread may have renamed it just now, and not yet made its name durable.
            with translated_errors(self._folder):
                sync_folder(self._folder)

    def _put_file(self, payload_hash: bytes, data: BytesLike) -> None:
        path = self._get_path(payload_hash)
        with self._lock:
            self._temporary_count += 1
            temporary = path.with_name(f"{path.name}.{self._temporary_count}{TEMPORARY_SUFFIX}")
        is_stored = False
        try:
            with translated_errors(path):
                # Without the lock: seconds may pass, and the same payload may come twice.
                write_temporary(temporary, data)
                with self._lock:
                    if path.exists():
                        temporary.unlink()
                    else:
                        temporary.rename(path)
                        is_stored = True
                sync_folder(self._folder)
        finally:
            if not is_stored:
                with self._lock:
                    self._total -= memoryview(data).nbytes

    def _reserve(self, size: int) -> None:
        check_space(self._total, size, self._total_bytes_max)
        self._total += size

    def _get_inline(self, payload_hash: bytes) -> bytes | None:
        # In this order: what is no longer staged is in the database already.
        staged = self._staged.get(payload_hash)
        return self._database.get(layout.PAYLOAD + payload_hash) if staged is None else staged

    def _iterate_inline(self) -> Iterator[tuple[bytes, bytes]]:
        entries = self._database.iterate(*layout.get_range(layout.PAYLOAD))
        return ((key[len(layout.PAYLOAD) :], value) for key, value in entries)

    def _list_files(self) -> list[bytes]:
        """Return the hashes of the payloads that are files; other files are left alone."""
        with translated_errors(self._folder):
            names = [path.name for path in self._folder.iterdir()]
        return [bytes.fromhex(name) for name in names if _FILE_NAME.fullmatch(name)]

    def _get_path(self, payload_hash: bytes) -> Path:
        return self._folder / payload_hash.hex()

    def _verify_file(self, payload_hash: bytes, data: BytesLike) -> None:
        if compute_content_hash(data) != payload_hash:
            raise PayloadDamaged(
                f"The payload in {self._get_path(payload_hash)} is damaged: check the disk, remove "
                "the file, and start the node again to fetch it from its peers."
            )
