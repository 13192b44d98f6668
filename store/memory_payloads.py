"""Payloads in memory, for tests and simulations: the twin of `store.payloads.PayloadStore`.

Owns the bytes, and which of them a crash would take. Never touches a file.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from store.disk import BytesLike
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

    def reopen(self) -> "MemoryPayloadStore":
        """Return the payloads as the next process finds them: without those not yet synced."""
        successor = MemoryPayloadStore(
            payload_bytes_max=self._payload_bytes_max, total_bytes_max=self._total_bytes_max
        )
        for payload_hash, data in self._payloads.items():
            if payload_hash not in self._staged:
                successor.put_expected(payload_hash, data)
        return successor

    @property
    def bytes_total(self) -> int:
        """The bytes of all payloads together."""
        return self._total

    def put(self, data: BytesLike, *, sync: bool = True) -> bytes:
        """Store a payload and return its hash; storing it again changes nothing.

        Raises
        ------
        PayloadTooLarge, PayloadSpaceExhausted
            Nothing was stored.
        """
        payload_hash = check_payload(data, self._payload_bytes_max)
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

    def get(self, payload_hash: bytes) -> bytes | None:
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

    def delete(self, payload_hash: bytes) -> bool:
        """Remove a payload; return whether it was stored."""
        data = self._payloads.pop(payload_hash, None)
        if data is None:
            return False
        self._staged.pop(payload_hash, None)
        self._total -= len(data)
        return True

    def iterate_hashes(self) -> Iterator[bytes]:
        """Iterate over the hashes of all payloads, ascending, as they are at the call."""
        return iter(sorted(self._payloads))

    def sweep(self, keep: Callable[[bytes], bool]) -> int:
        """Remove the payloads that nobody keeps; return how many that was."""
        return sum(
            self.delete(payload_hash)
            for payload_hash in self.iterate_hashes()
            if not keep(payload_hash)
        )

    def _put(self, payload_hash: bytes, data: BytesLike, *, sync: bool) -> None:
        if payload_hash not in self._payloads:
            check_space(self._total, memoryview(data).nbytes, self._total_bytes_max)
            self._payloads[payload_hash] = bytes(data)
            self._total += len(self._payloads[payload_hash])
            self._staged[payload_hash] = None
        if sync:
            self.sync()
