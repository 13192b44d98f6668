"""The files of large payloads: one each, under the payload's name, always whole.

A file is written beside its place, made durable and renamed. What it holds is checked whenever it
is read: all of it against its address, or one chunk against that chunk's hash, which is kept in the
database. Owns the files and the lists of chunk hashes. Never counts bytes: the payload store does.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import RLock

import numpy as np
from numpy.typing import NDArray
from quorate.chain.content import compute_chunk_hash, compute_content_hash, count_chunks
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root_of_hashes

from store.chunk_lists import ChunkLists
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
from store.partial_files import PARTIAL_SUFFIX, FilePartial, read_file_chunk

FILE_NAME = re.compile(r"[0-9a-f]{64}")
"""The name of a payload's file: its hash."""
DELETED_MAX = 1024
"""Deleted files that wait to be freed; one more is freed at once."""


class PayloadFiles:
    """Payloads as files of a folder. Safe to use from several threads.

    Parameters
    ----------
    folder : Path
        Created when absent; temporary files in it are swept.
    lists : ChunkLists
        Where chunk hashes are kept.

    Raises
    ------
    StorageInaccessible
    """

    def __init__(self, folder: Path, lists: ChunkLists) -> None:
        self._folder = folder
        self._lists = lists
        self._lock = RLock()
        self._temporary_count = 0
        self._deleted: list[Path] = []
        # Names given to files, and how many of these are durable. What an earlier process gave, and
        # may not have made durable, counts as one.
        self._names_given, self._names_durable = 1, 0
        make_folder(folder)
        sweep_temporary_files(folder)

    def list_hashes(self) -> list[bytes]:
        """Return the hashes of the payloads that are files; other files are left alone."""
        with translated_errors(self._folder):
            names = [path.name for path in self._folder.iterdir()]
        return [bytes.fromhex(name) for name in names if FILE_NAME.fullmatch(name)]

    def size(self, payload_hash: bytes) -> int | None:
        """Return the bytes of a payload, or None."""
        # Every small payload that is put comes this way, so it is spared a Path of its own.
        try:
            return os.stat(f"{self._folder}/{payload_hash.hex()}").st_size  # noqa: PTH116
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translate_os_error(error, self._get_path(payload_hash)) from error

    def read(self, payload_hash: bytes, *, verify: bool) -> bytes | None:
        """Return a payload, or None."""
        path = self._get_path(payload_hash)
        with translated_errors(path):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
        if verify:
            self._verify(payload_hash, data)
        return data

    def map(self, payload_hash: bytes, *, verify: bool) -> NDArray[np.uint8] | None:
        """Return a payload as a read-only array mapped from its file, or None."""
        size = self.size(payload_hash)
        if size is None:
            return None
        # Read, not through the map: where a mapped file cannot be read, or has lost its end, the
        # process ends without a word.
        if verify and self._read_chunk_hashes(payload_hash, size) is None:
            return None
        path = self._get_path(payload_hash)
        with translated_errors(path):
            try:
                return np.memmap(path, dtype=np.uint8, mode="r", shape=(size,))
            except FileNotFoundError:
                return None
            except ValueError:
                # It is empty, or shorter than it was a moment ago: only damage leaves such a file.
                raise self._make_damage(payload_hash) from None

    def read_chunk(self, payload_hash: bytes, index: int) -> bytes | None:
        """Return one chunk, verified against its own hash, or None."""
        size = self.size(payload_hash)
        if size is None or not 0 <= index < count_chunks(size):
            return None
        data = read_file_chunk(self._get_path(payload_hash), size, index)
        expected = self._lists.get_hash(payload_hash, index)
        if expected is None:
            hashes = self.get_chunk_hashes(payload_hash)
            expected = None if hashes is None else hashes[index]
        if data is None or expected is None:
            return None
        if compute_chunk_hash(data) != expected:
            raise self._make_damage(payload_hash)
        return data

    def get_chunk_hashes(self, payload_hash: bytes) -> tuple[Hash, ...] | None:
        """Return the chunk hashes of a payload, or None; made again from the file if lost."""
        size = self.size(payload_hash)
        known = self._lists.get(payload_hash)
        if size is None or known is not None:
            return None if size is None or known is None else known[1]
        hashes = self._read_chunk_hashes(payload_hash, size)
        if hashes is None:
            return None
        with self._lock:
            if self.size(payload_hash) is not None:
                self._lists.put(payload_hash, size, hashes)
        return hashes

    def put(self, payload_hash: bytes, chunk_hashes: Sequence[Hash], data: BytesLike) -> bool:
        """Store a payload durably; False if another thread was faster."""
        path = self._get_path(payload_hash)
        with self._lock:
            temporary = self._make_temporary_path(path)
        with translated_errors(path):
            # Without the lock: seconds may pass, and the same payload may come twice.
            write_temporary(temporary, data)
            with self._lock:
                # Whoever has begun to send it meanwhile may have lied about its chunks.
                self._lists.put(payload_hash, memoryview(data).nbytes, chunk_hashes)
                is_stored = self._rename(temporary, path)
        self.sync_names()
        return is_stored

    def sync_names(self) -> None:
        """Make the names of all files durable, also of those that another thread is storing."""
        with self._lock:
            names_given = self._names_given
            if names_given == self._names_durable:
                return
        with translated_errors(self._folder):
            sync_folder(self._folder)
        with self._lock:
            self._names_durable = max(self._names_durable, names_given)

    def delete(self, payload_hash: bytes, *, is_lazy: bool = False) -> int | None:
        """Remove a payload; return its bytes, or None if there was none.

        With `is_lazy` the file is only renamed: a file system takes a long time to free a large
        one. `free_deleted` frees it, or the next start sweeps it.
        """
        path = self._get_path(payload_hash)
        with self._lock, translated_errors(path):
            try:
                size = path.stat().st_size
                if is_lazy and len(self._deleted) < DELETED_MAX:
                    self._deleted.append(path.rename(self._make_temporary_path(path)))
                else:
                    path.unlink()
            except FileNotFoundError:
                return None
            self._lists.delete(payload_hash)
        return size

    def free_deleted(self) -> bool:
        """Free one payload that was deleted lazily; return whether there was one."""
        with self._lock:
            if not self._deleted:
                return False
            path = self._deleted.pop(0)
        # Without the lock: others may store and delete meanwhile.
        with translated_errors(path):
            path.unlink(missing_ok=True)
        return True

    # Payloads that arrive chunk by chunk.

    def make_partial(
        self,
        payload_hash: bytes,
        size: int,
        chunk_hashes: tuple[Hash, ...],
        adopt: Callable[[FilePartial], None],
        discard: Callable[[FilePartial], None],
    ) -> FilePartial:
        """Return a payload that arrives into a file; `create` makes the file."""
        path = self._get_path(payload_hash)
        path = path.with_name(path.name + PARTIAL_SUFFIX)
        return FilePartial(payload_hash, size, chunk_hashes, path, adopt, discard)

    def begin(self, partial: FilePartial) -> None:
        """Keep the chunk hashes of an arriving payload, and make its file."""
        with self._lock:
            if self.size(partial.payload_hash) is None:
                self._lists.put(partial.payload_hash, partial.size, partial.chunk_hashes)
        partial.create()

    def restore_partials(
        self,
        make: Callable[[bytes, int, tuple[Hash, ...]], FilePartial],
        keep: Callable[[FilePartial], bool],
    ) -> None:
        """Take up what was arriving when the last process ended, and remove what nobody keeps."""
        with translated_errors(self._folder):
            found = {path.name: path for path in self._folder.glob(f"*{PARTIAL_SUFFIX}")}
        for payload_hash, size, hashes in list(self._lists.iterate()):
            if self.size(payload_hash) is not None:
                continue
            partial = make(payload_hash, size, hashes)
            if partial.path.name in found and keep(partial):
                del found[partial.path.name]
            else:
                self._lists.delete(payload_hash)
        with translated_errors(self._folder):
            for path in found.values():
                path.unlink()

    def adopt(self, partial: FilePartial) -> bool:
        """Make an arrived file the payload's, durably; False if it was stored meanwhile."""
        with translated_errors(partial.path):
            descriptor = os.open(partial.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            is_stored = self._rename(partial.path, self._get_path(partial.payload_hash))
        self.sync_names()
        return is_stored

    def discard(self, partial: FilePartial) -> None:
        """Remove the file of an arriving payload."""
        with self._lock, translated_errors(partial.path):
            partial.path.unlink(missing_ok=True)
            if self.size(partial.payload_hash) is None:
                self._lists.delete(partial.payload_hash)

    def _rename(self, source: Path, path: Path) -> bool:
        with self._lock:
            if path.exists():
                source.unlink()
                return False
            source.rename(path)
            self._names_given += 1
            return True

    def _make_temporary_path(self, path: Path) -> Path:
        self._temporary_count += 1
        return path.with_name(f"{path.name}.{self._temporary_count}{TEMPORARY_SUFFIX}")

    def _get_path(self, payload_hash: bytes) -> Path:
        return self._folder / payload_hash.hex()

    def _read_chunk_hashes(self, payload_hash: bytes, size: int) -> tuple[Hash, ...] | None:
        """Return the hashes of a file's chunks, or None if it is gone; damage is raised."""
        hashes: list[Hash] = []
        for index in range(count_chunks(size)):
            data = read_file_chunk(self._get_path(payload_hash), size, index)
            if data is None:
                return None
            hashes.append(compute_chunk_hash(data))
        if compute_root_of_hashes(hashes) != payload_hash:
            raise self._make_damage(payload_hash)
        return tuple(hashes)

    def _verify(self, payload_hash: bytes, data: BytesLike) -> None:
        if compute_content_hash(data) != payload_hash:
            raise self._make_damage(payload_hash)

    def _make_damage(self, payload_hash: bytes) -> PayloadDamaged:
        return PayloadDamaged(
            f"The payload in {self._get_path(payload_hash)} is damaged: check the disk, remove "
            "the file, and start the node again to fetch it from its peers."
        )
