"""Weights in a file: while they are downloaded, and afterwards, mapped into memory.

Owns the file under work beside its final name, what of it is sound after an interruption, and the
arrays over a finished one. Never asks a node for anything.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quorate.chain.content import CHUNK_BYTES, compute_chunk_hash, get_chunk_size
from quorate.chain.ids import Hash
from quorate.chain.task import TaskSpec
from quorate.fixed_point import Array, ModelSchema

PARTIAL_SUFFIX: Final = ".partial"
"""The end of the name of a download that is not finished."""


@dataclass(frozen=True)
class StoredWeights:
    """Verified weights in a file.

    Attributes
    ----------
    path : Path
        The file: little-endian int32 fixed point, the tensors in the task's order.
    spec : TaskSpec
        The task's.
    task_id, weights_root : bytes, 32
    chain_id : str
    height : int
        The block whose header commits to them.
    time_ms : int
        That block's time.
    block_hash : bytes, 32
    bytes_kept : int
        How much of the file was there from an earlier attempt.
    """

    path: Path
    spec: TaskSpec
    task_id: Hash
    weights_root: Hash
    chain_id: str
    height: int
    time_ms: int
    block_hash: Hash
    bytes_kept: int = 0

    @property
    def vector(self) -> NDArray[np.int32]:
        """The file mapped into memory, read-only: (d,) int32, which need not be in memory."""
        return np.memmap(self.path, dtype="<i4", mode="r")

    @property
    def arrays(self) -> list[NDArray[np.int32]]:
        """The tensors in their shapes, as views of the mapped file, read-only.

        A tensor's numbers are its weights times 2**weight_fraction_bits.
        """
        vector, start, arrays = self.vector, 0, []
        for tensor in self.spec.tensors:
            arrays.append(vector[start : start + tensor.size].reshape(tensor.shape))
            start += tensor.size
        return arrays

    def to_arrays(self, dtype: DTypeLike = np.float32) -> list[Array]:
        """Return the weights as real numbers, in memory."""
        return [
            np.ldexp(array, -tensor.weight_fraction_bits).astype(dtype, copy=False)
            for tensor, array in zip(
                ModelSchema.from_spec(self.spec).tensors, self.arrays, strict=True
            )
        ]


class PartialFile:
    """A file that is being downloaded, chunk by chunk in any order.

    Works as a context manager. What is in it after an interruption stays for the next attempt.

    Parameters
    ----------
    path : Path
        Where it will be once it is whole.
    size : int
        Its bytes.
    chunk_hashes : sequence of bytes, 32
        What its chunks must hash to.

    Raises
    ------
    OSError
        If it cannot be created.
    """

    def __init__(self, path: Path, size: int, chunk_hashes: Sequence[bytes]) -> None:
        self.path = path
        self.size = size
        self._chunk_hashes = chunk_hashes
        self._partial = path.with_name(path.name + PARTIAL_SUFFIX)
        self._descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with file_named(self._partial):
                size_found = os.fstat(self._descriptor).st_size
                if size_found != size:
                    os.ftruncate(self._descriptor, size)
        except OSError:
            os.close(self._descriptor)
            raise
        # Nothing but a hole, which reads like chunks of zeros that somebody has downloaded.
        self._is_empty = size_found == 0

    def find_missing(self) -> list[int]:
        """Return the chunks that are not sound, in their order; reads the whole file."""
        if self._is_empty:
            return list(range(len(self._chunk_hashes)))
        return [
            index
            for index, expected in enumerate(self._chunk_hashes)
            if compute_chunk_hash(self._read(index)) != expected
        ]

    def write(self, index: int, chunk: bytes) -> bool:
        """Write a chunk if it is what its hash says; tell whether it was. For any thread."""
        if compute_chunk_hash(chunk) != self._chunk_hashes[index]:
            return False
        self._is_empty = False
        view, start = memoryview(chunk), index * CHUNK_BYTES
        with file_named(self._partial):
            while view:
                written = os.pwrite(self._descriptor, view, start)
                view, start = view[written:], start + written
        return True

    def finish(self) -> None:
        """Make the file durable, under its final name."""
        with file_named(self._partial):
            os.fsync(self._descriptor)
        self._partial.replace(self.path)

    def close(self) -> None:
        """Close the file; if it is not finished, it stays beside its final name."""
        os.close(self._descriptor)

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, index: int) -> bytes:
        return os.pread(self._descriptor, get_chunk_size(self.size, index), index * CHUNK_BYTES)


class PartialBytes:
    """Weights that are being downloaded into memory, chunk by chunk in any order.

    Parameters
    ----------
    size : int
        Their bytes.
    chunk_hashes : sequence of bytes, 32
        What their chunks must hash to.
    """

    def __init__(self, size: int, chunk_hashes: Sequence[bytes]) -> None:
        self.size = size
        self._chunk_hashes = chunk_hashes
        self._chunks = [b""] * len(chunk_hashes)

    def find_missing(self) -> list[int]:
        """Return the chunks that are not here, in their order."""
        return [index for index, chunk in enumerate(self._chunks) if not chunk]

    def write(self, index: int, chunk: bytes) -> bool:
        """Keep a chunk if it is what its hash says; tell whether it was. For any thread."""
        if compute_chunk_hash(chunk) != self._chunk_hashes[index]:
            return False
        self._chunks[index] = chunk
        return True

    def join(self) -> bytes:
        """Return the whole, once nothing is missing."""
        return b"".join(self._chunks)


@contextmanager
def file_named(path: Path) -> Iterator[None]:
    """Name the file in an `OSError` of its descriptor, which knows no name: a full disk's, say."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def is_file_whole(path: Path, size: int, chunk_hashes: Sequence[bytes]) -> bool:
    """Tell whether a file is there and has exactly these chunks.

    Raises
    ------
    OSError
        If it is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                return False
            return all(
                compute_chunk_hash(file.read(CHUNK_BYTES)) == expected for expected in chunk_hashes
            )
    except FileNotFoundError:
        return False
