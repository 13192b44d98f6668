"""Payloads that arrive chunk by chunk into files: each chunk in its place, renamed when whole.

Owns the file of an arriving payload. Never keeps a chunk in memory, and syncs nothing before the
payload is whole: a chunk that a crash has torn does not have its hash, and is asked for again.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from quorate.chain.content import CHUNK_BYTES, get_chunk_size
from quorate.chain.ids import Hash

from store.disk import BytesLike, translated_errors
from store.partial_payload import PartialPayload

_CANNOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What a file system answers that gives no room ahead."""

PARTIAL_SUFFIX = ".part"
"""The end of the name of a file that holds the chunks of a payload that have arrived."""


class FilePartial(PartialPayload):
    """A payload that arrives into a file.

    Parameters
    ----------
    payload_hash, size, chunk_hashes
        As `PartialPayload` has them.
    path : Path
        The file.
    adopt, discard : callable
        What makes the file the stored payload, and what removes it.
    """

    def __init__(
        self,
        payload_hash: bytes,
        size: int,
        chunk_hashes: tuple[Hash, ...],
        path: Path,
        adopt: Callable[["FilePartial"], None],
        discard: Callable[["FilePartial"], None],
    ) -> None:
        super().__init__(payload_hash, size, chunk_hashes)
        self.path = path
        self._adopt = adopt
        self._remove = discard

    def create(self) -> None:
        """Make the file, without any chunk, and have the file system keep room for all of it.

        That room is there when the chunks come, and the file system need not make it durable in the
        middle of somebody else's sync: a vote would wait for it.

        Raises
        ------
        DiskFull, StorageInaccessible
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with translated_errors(self.path):
            descriptor = os.open(self.path, flags, 0o600)
            try:
                _allocate(descriptor, self.size)
            except OSError:
                self.path.unlink()
                raise
            finally:
                os.close(descriptor)
        self._present = bytearray(len(self.chunk_hashes))

    def _read(self, index: int) -> bytes | None:
        return read_file_chunk(self.path, self.size, index)

    def _write(self, index: int, data: BytesLike) -> None:
        rest, place = memoryview(data).cast("B"), index * CHUNK_BYTES
        with translated_errors(self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                while rest:
                    written = os.pwrite(descriptor, rest, place)
                    rest, place = rest[written:], place + written
                # The disk may begin at once; all at the end would be a long wait for others' syncs.
                start = index * CHUNK_BYTES
                os.posix_fadvise(descriptor, start, place - start, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    def _finish(self) -> None:
        self._adopt(self)

    def _discard(self) -> None:
        self._remove(self)


def _allocate(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _CANNOT_ALLOCATE:
            raise
        os.ftruncate(descriptor, size)


def read_file_chunk(path: Path, size: int, index: int) -> bytes | None:
    """Return what a file of `size` bytes has in the place of a chunk, or None without the file.

    Raises
    ------
    StorageInaccessible
    """
    length, place = get_chunk_size(size, index), index * CHUNK_BYTES
    with translated_errors(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            data = os.pread(descriptor, length, place)
            while len(data) < length:
                more = os.pread(descriptor, length - len(data), place + len(data))
                if not more:
                    break
                data += more
        finally:
            os.close(descriptor)
    return data
