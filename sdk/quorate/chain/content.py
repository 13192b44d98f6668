"""Content addresses: the name of a payload, of weights and of optimizer states by their bytes.

The address is the RFC 6962 Merkle root over chunks of 1 MiB, the last one shorter, so that whoever
knows address and size can verify any chunk by itself, from anyone, in any order. Owns the
chunking and the hash. Never reads or stores anything.

The root alone says nothing about the size: a list of inner nodes has the same root as the leaves
below them. So a list of chunk hashes proves something only together with a size from elsewhere
(a signed transaction, a task's schema), which says how many there must be.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root_of_hashes

CHUNK_BYTES: Final = 1 << 20

BytesLike = bytes | bytearray | memoryview


def compute_chunk_hash(chunk: BytesLike) -> Hash:
    """Return the RFC 6962 leaf hash of one chunk, SHA-256(0x00 || chunk), without copying it."""
    digest = sha256(b"\x00")
    digest.update(chunk)
    return Hash(digest.digest())


def compute_chunk_hashes(data: BytesLike) -> tuple[Hash, ...]:
    """Return the hashes of the chunks of `data`, in order; of no bytes, none.

    Parameters
    ----------
    data : bytes
        Contiguous. Hashing releases the interpreter's lock.
    """
    view = memoryview(data).cast("B")
    return tuple(
        compute_chunk_hash(view[start : start + CHUNK_BYTES])
        for start in range(0, len(view), CHUNK_BYTES)
    )


def compute_content_hash(data: BytesLike) -> Hash:
    """Return the content address of `data`; of no bytes, RFC 6962's root of nothing."""
    return compute_root_of_hashes(compute_chunk_hashes(data))


def count_chunks(size: int) -> int:
    """Return how many chunks `size` bytes have."""
    return -(-size // CHUNK_BYTES)


def get_chunk_size(size: int, index: int) -> int:
    """Return the bytes of chunk `index` of a payload of `size` bytes.

    Raises
    ------
    IndexError
        If there is no such chunk.
    """
    if not 0 <= index < count_chunks(size):
        raise IndexError(f"{size} bytes have no chunk {index}")
    return min(CHUNK_BYTES, size - index * CHUNK_BYTES)


def are_chunk_hashes_valid(content_hash: Hash, size: int, chunk_hashes: Sequence[Hash]) -> bool:
    """Tell whether these are the hashes of the chunks of what has this address and this size."""
    return (
        len(chunk_hashes) == count_chunks(size)
        and compute_root_of_hashes(chunk_hashes) == content_hash
    )
