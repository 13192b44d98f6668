"""What a payload store offers and what it refuses, whether it lies on disk or in memory.

Owns the interface, the default limits and the checks that come before storing. Never stores.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from quorate.chain.content import compute_chunk_hashes
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root_of_hashes

from store.disk import BytesLike
from store.errors import PayloadMismatch, PayloadSpaceExhausted, PayloadTooLarge
from store.partial_payload import PartialPayload

INLINE_BYTES_MAX = 64 << 10
"""Default size up to which a payload lies in the database."""
PAYLOAD_BYTES_MAX = 4 << 30
"""Default size of one payload: 2^30 parameters as int32."""
TOTAL_BYTES_MAX = 64 << 30
"""Default size of all payloads together."""


class Payloads(Protocol):
    """Payloads by hash. Safe to use from several threads."""

    @property
    def bytes_total(self) -> int:
        """The bytes of all payloads together, with what is still to arrive."""
        ...

    def put(self, data: BytesLike, *, sync: bool = True) -> bytes:
        """Store a payload and return its hash."""
        ...

    def put_expected(self, payload_hash: bytes, data: BytesLike, *, sync: bool = True) -> None:
        """Store a payload that was announced under a hash."""
        ...

    def sync(self) -> None:
        """Make everything put so far durable."""
        ...

    def has(self, payload_hash: bytes) -> bool:
        """Return whether a payload is stored."""
        ...

    def get(self, payload_hash: bytes, *, verify: bool = True) -> bytes | None:
        """Return a payload, or None; `verify` compares what is read with its hash."""
        ...

    def size(self, payload_hash: bytes) -> int | None:
        """Return the bytes of a payload, or None."""
        ...

    def open_memmap(self, payload_hash: bytes, *, verify: bool = True) -> NDArray[np.uint8] | None:
        """Return a payload as a read-only array that need not be in memory, or None."""
        ...

    def begin(
        self,
        payload_hash: bytes,
        size: int,
        chunk_hashes: Sequence[Hash],
        *,
        is_size_sure: bool = False,
    ) -> PartialPayload:
        """Begin a payload that arrives chunk by chunk, or continue one that has begun.

        With `is_size_sure`, one that has begun with another size makes way.
        """
        ...

    def get_partial(self, payload_hash: bytes) -> PartialPayload | None:
        """Return a payload that is arriving, or None."""
        ...

    def sweep_partials(self) -> int:
        """Drop what nobody has continued since the last call; return how many that was."""
        ...

    def get_chunk_hashes(self, payload_hash: bytes) -> tuple[Hash, ...] | None:
        """Return the chunk hashes of a stored payload, or None."""
        ...

    def read_chunk(self, payload_hash: bytes, index: int) -> bytes | None:
        """Return one chunk of a stored payload, or None if there is no such payload or chunk."""
        ...

    def delete(self, payload_hash: bytes, *, is_lazy: bool = False) -> bool:
        """Remove a payload, whole or arriving; return whether a whole one was stored.

        With `is_lazy`, what takes long about it is left to `free_deleted`.
        """
        ...

    def free_deleted(self) -> bool:
        """Free one payload that was deleted lazily; return whether there was one."""
        ...

    def iterate_hashes(self) -> Iterator[bytes]:
        """Iterate over the hashes of all payloads, ascending."""
        ...


def sweep_payloads(payloads: Payloads, keep: Callable[[bytes], bool]) -> int:
    """Remove the payloads that nobody keeps; return how many that was.

    For when no payload is being put: one that is not yet referred to would be swept.

    Parameters
    ----------
    payloads : Payloads
    keep : callable
        Whether a payload with that hash is still needed.

    Raises
    ------
    DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
    """
    swept = 0
    for payload_hash in payloads.iterate_hashes():
        if not keep(payload_hash):
            swept += payloads.delete(payload_hash)
    return swept


def check_payload(
    data: BytesLike, bytes_max: int, expected_hash: bytes | None = None
) -> tuple[Hash, tuple[Hash, ...]]:
    """Return the hash of a payload that may be stored, and the hashes of its chunks.

    Raises
    ------
    PayloadTooLarge
        It has more than `bytes_max` bytes.
    PayloadMismatch
        Its hash is not the expected one.
    """
    size = memoryview(data).nbytes
    if size > bytes_max:
        raise PayloadTooLarge(
            f"The payload has {size} bytes, and one payload may have {bytes_max}: send less."
        )
    chunk_hashes = compute_chunk_hashes(data)
    payload_hash = compute_root_of_hashes(chunk_hashes)
    if expected_hash is not None and payload_hash != expected_hash:
        raise PayloadMismatch(
            f"The payload was announced as {expected_hash.hex()} and has the hash "
            f"{payload_hash.hex()}: send the bytes that were announced."
        )
    return payload_hash, chunk_hashes


def check_space(total: int, size: int, total_bytes_max: int) -> None:
    """Refuse a payload that the payload store has no room for.

    Raises
    ------
    PayloadSpaceExhausted
    """
    if total + size > total_bytes_max:
        raise PayloadSpaceExhausted(
            f"{size} more bytes would pass the payload store's limit of {total_bytes_max} (in use: "
            f"{total}): raise the limit, or keep payloads for a shorter time."
        )
