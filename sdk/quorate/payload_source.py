"""The bytes of a payload, wherever they are: in memory, in an array, in a file.

Owns reading them chunk by chunk, so that a file or a mapped array never has to be in memory as a
whole. Never sends them.
"""

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quorate.chain.content import (
    CHUNK_BYTES,
    BytesLike,
    compute_chunk_hash,
    count_chunks,
    get_chunk_size,
)
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root_of_hashes
from quorate.errors import EncodingError

PayloadData: TypeAlias = BytesLike | NDArray[np.generic] | Path
"""A payload: its bytes, an array of them (a mapped one, too), or the path of a file of them."""


class PayloadSource:
    """A payload that is read chunk by chunk, by several threads if need be.

    Works as a context manager, which closes the file if there is one.

    Parameters
    ----------
    data : bytes, array or Path
        An array must be contiguous and have the chain's own little-endian type. A file must not
        change while it is read.

    Raises
    ------
    EncodingError
        If the array is not contiguous, or the file cannot be read.
    """

    def __init__(self, data: PayloadData) -> None:
        self._view: memoryview | None = None
        self._descriptor = -1
        if isinstance(data, Path):
            try:
                self._descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
                self.size = os.fstat(self._descriptor).st_size
            except OSError as error:
                raise EncodingError(f"{data} cannot be read: {error.strerror}") from error
        else:
            if isinstance(data, np.ndarray):
                data = _get_bytes(data)
            self._view = memoryview(data).cast("B")
            self.size = len(self._view)
        self._chunk_hashes: tuple[Hash, ...] | None = None
        self._content_hash: Hash | None = None

    @property
    def chunk_hashes(self) -> tuple[Hash, ...]:
        """The hashes of the chunks, computed once: of 1 GB in less than a second."""
        if self._chunk_hashes is None:
            self._chunk_hashes = tuple(
                compute_chunk_hash(self.read(index)) for index in range(count_chunks(self.size))
            )
        return self._chunk_hashes

    @property
    def content_hash(self) -> Hash:
        """The content address, computed once."""
        if self._content_hash is None:
            self._content_hash = compute_root_of_hashes(self.chunk_hashes)
        return self._content_hash

    def read(self, index: int) -> bytes:
        """Return a chunk.

        Raises
        ------
        EncodingError
            If the file has become shorter.
        """
        size, start = get_chunk_size(self.size, index), index * CHUNK_BYTES
        if self._view is not None:
            return bytes(self._view[start : start + size])
        chunk = os.pread(self._descriptor, size, start)
        if len(chunk) != size:
            raise EncodingError("the file of the payload has changed while it was read")
        return chunk

    def read_all(self) -> bytes:
        """Return the whole payload; for small ones."""
        return b"".join(self.read(index) for index in range(count_chunks(self.size)))

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "PayloadSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _get_bytes(array: NDArray[np.generic]) -> memoryview:
    if not array.flags.c_contiguous:
        raise EncodingError("the array of a payload must be contiguous: copy it first")
    if array.dtype.byteorder == ">" or array.dtype.hasobject:
        raise EncodingError(f"an array of {array.dtype} is no payload: it is little-endian")
    return array.reshape(-1).view(np.uint8).data
