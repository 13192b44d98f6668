"""Payloads that arrive chunk by chunk into files: each chunk in its place, renamed when whole.

Owns the file of an arriving payload. Never keeps a chunk in memory, and syncs nothing before the
payload is whole: a chunk that a crash has torn does not have its hash, and is asked for again.
"""

import os
from collections.abc import Callable
from pathlib import Path

from quorate.chain.content import CHUNK_BYTES, get_chunk_size
from quorate.chain.ids import Hash

from store.disk import BytesLike, translated_errors
from store.partial_payload import PartialPayload

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
        """Make the file, without any chunk; it takes no room on the disk yet.

        Raises
        ------
        DiskFull, StorageInaccessible
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with translated_errors(self.path):
            descriptor = os.open(self.path, flags, 0o600)
            try:
                os.ftruncate(descriptor, self.size)
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
            finally:
                os.close(descriptor)

    def _finish(self) -> None:
        self._adopt(self)

    def _discard(self) -> None:
        self._remove(self)


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
