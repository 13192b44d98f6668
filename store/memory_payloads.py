"""Payloads in memory, for tests and simulations: the twin of `store.payloads.PayloadStore`.

Owns the bytes, and which of them a crash would take. Never touches a file.
"""

from collections.abc import Callable, Iterator, Sequence
from threading import RLock

import numpy as np
from numpy.typing import NDArray
from quorate.chain.content import CHUNK_BYTES, compute_chunk_hashes
from quorate.chain.ids import Hash

from store.disk import BytesLike
from store.partial_payload import (
    PartialPayload,
    PartialPayloads,
    validate_beginning,
)
from store.payload_contract import PAYLOAD_BYTES_MAX, TOTAL_BYTES_MAX, check_payload, check_space


class MemoryPayloadStore:
    """Payloads in memory.

    Parameters
    ----------
    payload_bytes_max, total_bytes_max : int
        Bytes of any one payload, and of all together.
    """

    def __init__(
        self,
        *,
        payload_bytes_max: int = PAYLOAD_BYTES_MAX,
        total_bytes_max: int = TOTAL_BYTES_MAX,
    ) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._total_bytes_max = total_bytes_max
        self._payloads: dict[bytes, bytes] = {}
        self._staged: dict[bytes, None] = {}
        self._total = 0
        self._partials = PartialPayloads(RLock(), self._reserve, self._give_back)

    def reopen(self) -> "MemoryPayloadStore":
        """Return the payloads as the next process finds them: without those not yet synced."""
        successor = MemoryPayloadStore(
            payload_bytes_max=self._payload_bytes_max, total_bytes_max=self._total_bytes_max
        )
        for payload_hash, data in self._payloads.items():
            if payload_hash not in self._staged:
                successor.put_expected(payload_hash, data)
        for partial in self._partials.get_all():
            begun = successor.begin(partial.payload_hash, partial.size, partial.chunk_hashes)
            for index in sorted(set(range(len(partial.chunk_hashes))) - set(partial.missing())):
                begun.write(index, partial.read(index))
        return successor

    @property
    def bytes_total(self) -> int:
        """The bytes of all payloads together, with what is still to arrive."""
        return self._total

    def put(self, data: BytesLike, *, sync: bool = True) -> bytes:
        """Store a payload and return its hash; storing it again changes nothing.

        Raises
        ------
        PayloadTooLarge, PayloadSpaceExhausted
            Nothing was stored.
        """
        payload_hash, _ = check_payload(data, self._payload_bytes_max)
        self._put(payload_hash, data, sync=sync)
        return payload_hash

    def put_expected(self, payload_hash: bytes, data: BytesLike, *, sync: bool = True) -> None:
        """Store a payload that was announced under a hash.

        Raises
        ------
        PayloadMismatch, PayloadTooLarge, PayloadSpaceExhausted
            Nothing was stored.
        """
        check_payload(data, self._payload_bytes_max, payload_hash)
        self._put(payload_hash, data, sync=sync)

    def sync(self) -> None:
        """Let everything put so far survive `reopen`."""
        self._staged.clear()

    def has(self, payload_hash: bytes) -> bool:
        """Return whether a payload is stored."""
        return payload_hash in self._payloads

    def get(
        self,
        payload_hash: bytes,
        *,
        verify: bool = True,  # noqa: ARG002 - memory has no files to verify
    ) -> bytes | None:
        """Return a payload, or None."""
        return self._payloads.get(payload_hash)

    def size(self, payload_hash: bytes) -> int | None:
        """Return the bytes of a payload, or None."""
        data = self._payloads.get(payload_hash)
        return None if data is None else len(data)

    def open_memmap(
        self,
        payload_hash: bytes,
        *,
        verify: bool = True,  # noqa: ARG002 - memory has no files to verify
    ) -> NDArray[np.uint8] | None:
        """Return a payload as a read-only array, or None.

        Returns
        -------
        (size,) uint8, or None
        """
        data = self._payloads.get(payload_hash)
        return None if data is None else np.frombuffer(data, dtype=np.uint8)

    def begin(
        self,
        payload_hash: bytes,
        size: int,
        chunk_hashes: Sequence[Hash],
        *,
        is_size_sure: bool = False,
    ) -> PartialPayload:
        """Begin a payload that arrives chunk by chunk, or continue one that has begun.

        Raises
        ------
        PayloadMismatch, PayloadTooLarge, PayloadSpaceExhausted
        """
        validate_beginning(payload_hash, size, chunk_hashes, self._payload_bytes_max)
        made = MemoryPartial(
            payload_hash, size, tuple(map(Hash, chunk_hashes)), self._adopt, self._discard
        )
        return self._partials.begin(made, lambda: None, self.has, is_size_sure=is_size_sure)

    def get_partial(self, payload_hash: bytes) -> PartialPayload | None:
        """Return a payload that is arriving, or None."""
        return self._partials.get(payload_hash)

    def sweep_partials(self) -> int:
        """Drop what nobody has continued since the last call; return how many that was."""
        return self._partials.sweep()

    def get_chunk_hashes(self, payload_hash: bytes) -> tuple[Hash, ...] | None:
        """Return the chunk hashes of a stored payload, or None."""
        data = self._payloads.get(payload_hash)
        return None if data is None else compute_chunk_hashes(data)

    def read_chunk(self, payload_hash: bytes, index: int) -> bytes | None:
        """Return one chunk of a stored payload, or None if there is no such one."""
        data, start = self._payloads.get(payload_hash), index * CHUNK_BYTES
        if data is None or not 0 <= start < len(data):
            return None
        return data[start : start + CHUNK_BYTES]

    def delete(
        self,
        payload_hash: bytes,
        *,
        is_lazy: bool = False,  # noqa: ARG002 - memory is freed at once
    ) -> bool:
        """Remove a payload, whole or arriving; return whether a whole one was stored."""
        partial = self._partials.get(payload_hash)
        if partial is not None:
            partial.abandon()
        data = self._payloads.pop(payload_hash, None)
        if data is None:
            return False
        self._staged.pop(payload_hash, None)
        self._total -= len(data)
        return True

    def free_deleted(self) -> bool:
        """Do nothing: memory is freed at once."""
        return False

    def iterate_hashes(self) -> Iterator[bytes]:
        """Iterate over the hashes of all payloads, ascending, as they are at the call."""
        return iter(sorted(self._payloads))

    def _put(self, payload_hash: bytes, data: BytesLike, *, sync: bool) -> None:
        if payload_hash not in self._payloads:
            check_space(self._total, memoryview(data).nbytes, self._total_bytes_max)
            self._payloads[payload_hash] = bytes(data)
            self._total += len(self._payloads[payload_hash])
            self._staged[payload_hash] = None
        if sync:
            self.sync()
        partial = self._partials.get(payload_hash)
        if partial is not None:
            partial.supersede()

    def _reserve(self, size: int) -> None:
        check_space(self._total, size, self._total_bytes_max)
        self._total += size

    def _give_back(self, size: int) -> None:
        self._total -= size

    def _adopt(self, partial: "MemoryPartial") -> None:
        self._discard(partial)
        self._put(partial.payload_hash, partial.join(), sync=True)

    def _discard(self, partial: "MemoryPartial") -> None:
        self._partials.remove(partial, is_stored=False)


class MemoryPartial(PartialPayload):
    """A payload that arrives into memory.

    Parameters
    ----------
    payload_hash, size, chunk_hashes
        As `PartialPayload` has them.
    adopt, discard : callable
        What makes it a stored payload, and what forgets it.
    """

    def __init__(
        self,
        payload_hash: bytes,
        size: int,
        chunk_hashes: tuple[Hash, ...],
        adopt: Callable[["MemoryPartial"], None],
        discard: Callable[["MemoryPartial"], None],
    ) -> None:
        super().__init__(payload_hash, size, chunk_hashes)
        self._chunks: dict[int, bytes] = {}
        self._adopt = adopt
        self._remove = discard

    def join(self) -> bytes:
        """Return all bytes of a payload that is whole."""
        return b"".join(self._chunks[index] for index in range(len(self.chunk_hashes)))

    def _read(self, index: int) -> bytes | None:
        return self._chunks.get(index)

    def _write(self, index: int, data: BytesLike) -> None:
        self._chunks[index] = bytes(data)

    def _finish(self) -> None:
        self._adopt(self)

    def _discard(self) -> None:
        self._remove(self)
