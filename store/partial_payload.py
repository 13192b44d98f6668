"""Payloads that arrive chunk by chunk, in any order, from anyone, over restarts.

Owns the life of such a payload, the check of each chunk against its hash, and the bounded list of
all that have begun. Never knows where the bytes lie: the stores' own classes do.

What a crash leaves of a chunk is found out by its hash, so that nothing is written down about
which chunks have arrived, and none is synced by itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import Enum, auto
from threading import Lock

from quorate.chain.content import (
    CHUNK_BYTES,
    are_chunk_hashes_valid,
    compute_chunk_hash,
    count_chunks,
    get_chunk_size,
)
from quorate.chain.errors import StorageError
from quorate.chain.ids import Hash

from store.disk import BytesLike
from store.errors import (
    PayloadAbandoned,
    PayloadIncomplete,
    PayloadMismatch,
    PayloadSpaceExhausted,
    PayloadTooLarge,
)

PARTIALS_MAX = 256
"""Payloads that may be arriving at a time."""


class _Stage(Enum):
    ARRIVING = auto()
    FINISHED = auto()
    ABANDONED = auto()


class PartialPayload(ABC):
    """A payload of which some chunks are here. Safe to use from several threads.

    Parameters
    ----------
    payload_hash : bytes, 32
        Its content address.
    size : int
        Its bytes, at least 1.
    chunk_hashes : tuple of bytes, 32
        Of all its chunks; they belong to the address.
    """

    def __init__(self, payload_hash: bytes, size: int, chunk_hashes: tuple[Hash, ...]) -> None:
        self.payload_hash = Hash(payload_hash)
        self.size = size
        self.chunk_hashes = chunk_hashes
        self.is_continued = True
        self._stage = _Stage.ARRIVING
        self._lock = Lock()
        self._present: bytearray | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it is stored."""
        return self._stage is _Stage.FINISHED

    @property
    def missing_bytes(self) -> int:
        """How many bytes have not arrived; all of them, before `missing` was asked for once."""
        if self._stage is not _Stage.ARRIVING:
            return 0
        present = self._present
        count = len(self.chunk_hashes) if present is None else present.count(0)
        return min(self.size, count * CHUNK_BYTES)

    def missing(self) -> tuple[int, ...]:
        """Return the chunks that are not here, ascending.

        The first call after a restart reads what is here, which takes its time.
        """
        with self._lock:
            if self._stage is _Stage.FINISHED:
                return ()
            present = self._load_present()
            return tuple(index for index, is_here in enumerate(present) if not is_here)

    def write(self, index: int, data: BytesLike) -> bool:
        """Keep a chunk; return whether it was missing.

        Raises
        ------
        PayloadMismatch
            These are not the bytes of that chunk. Nothing has changed.
        PayloadAbandoned
        DiskFull, StorageInaccessible
        """
        with self._lock:
            if self._stage is _Stage.FINISHED:
                return False
            self._require_arriving()
        is_chunk = 0 <= index < len(self.chunk_hashes)
        if not is_chunk or memoryview(data).nbytes != get_chunk_size(self.size, index):
            raise PayloadMismatch(
                f"The payload {self.payload_hash.hex()} has no chunk {index} of "
                f"{memoryview(data).nbytes} bytes: cut it into pieces of 1 MiB, from zero on."
            )
        if compute_chunk_hash(data) != self.chunk_hashes[index]:
            raise PayloadMismatch(
                f"Chunk {index} of the payload {self.payload_hash.hex()} does not have the hash "
                "that was announced: send the bytes that were hashed."
            )
        with self._lock:
            if not self._is_wanted(index):
                return False
        # Without the lock: the disk may take its time, and the same bytes may come twice.
        try:
            self._write(index, data)
        except StorageError:
            with self._lock:
                if self._is_wanted(index):
                    raise
            return False
        with self._lock:
            if not self._is_wanted(index):
                return False
            self._load_present()[index] = 1
            self.is_continued = True
            return True

    def read(self, index: int) -> bytes:
        """Return a chunk that is here, without verifying it again.

        Raises
        ------
        PayloadIncomplete
            It is not here.
        StorageInaccessible
        """
        with self._lock:
            is_here = self._stage is _Stage.ARRIVING and self._load_present()[index]
        data = self._read(index) if is_here else None
        if data is None:
            raise PayloadIncomplete(f"Chunk {index} of {self.payload_hash.hex()} is not here.")
        return data

    def finish(self) -> None:
        """Make it a stored payload, durably; finishing it again changes nothing.

        Raises
        ------
        PayloadIncomplete
            Chunks are missing.
        PayloadAbandoned
        DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        with self._lock:
            if self._stage is _Stage.FINISHED:
                return
            self._require_arriving()
            if not all(self._load_present()):
                raise PayloadIncomplete(
                    f"The payload {self.payload_hash.hex()} lacks "
                    f"{self._load_present().count(0)} chunks: send those first."
                )
            self._finish()
            self._stage = _Stage.FINISHED

    def abandon(self) -> None:
        """Throw away what has arrived, unless it is stored already."""
        with self._lock:
            if self._stage is not _Stage.ARRIVING:
                return
            self._stage = _Stage.ABANDONED
            self._discard()

    def make_way(self, size: int, *, is_sure: bool) -> None:
        """Give up the place for one of another size, unless this one is as likely to be right.

        Both cannot be: with the number of chunks, the address says what each of them is, and
        whoever lies about a size can never finish. A chunk that is here speaks for this one, but
        for nothing against a size that is known for sure.
        """
        if size == self.size:
            return
        if is_sure or len(self.missing()) == len(self.chunk_hashes):
            self.abandon()

    def supersede(self) -> None:
        """Note that the whole payload was stored in another way; what has arrived is not needed."""
        with self._lock:
            if self._stage is not _Stage.ARRIVING:
                return
            self._stage = _Stage.FINISHED
            self._discard()

    def mark_stored(self) -> None:
        """Note that it was stored before it began."""
        self._stage = _Stage.FINISHED

    def _is_wanted(self, index: int) -> bool:
        if self._stage is _Stage.FINISHED:
            return False
        self._require_arriving()
        return not self._load_present()[index]

    def _require_arriving(self) -> None:
        if self._stage is _Stage.ABANDONED:
            raise PayloadAbandoned(
                f"What had arrived of the payload {self.payload_hash.hex()} was dropped: send it "
                "again from the beginning."
            )

    def _load_present(self) -> bytearray:
        if self._present is None:
            self._present = bytearray(
                self._is_here(index) for index in range(count_chunks(self.size))
            )
        return self._present

    def _is_here(self, index: int) -> bool:
        data = self._read(index)
        return data is not None and compute_chunk_hash(data) == self.chunk_hashes[index]

    @abstractmethod
    def _read(self, index: int) -> bytes | None:
        """Return what lies in the place of a chunk, whatever it is."""

    @abstractmethod
    def _write(self, index: int, data: BytesLike) -> None:
        """Put a chunk in its place."""

    @abstractmethod
    def _finish(self) -> None:
        """Let it be the stored payload, durably, and give up the place among the partial ones."""

    @abstractmethod
    def _discard(self) -> None:
        """Remove what has arrived, and give up the place among the partial ones."""


class PartialPayloads:
    """The payloads that have begun to arrive, within limits of their number and bytes.

    Parameters
    ----------
    lock : context manager
        The store's, which a thread may take again. A partial payload's own lock is never taken
        while it is held.
    reserve, release : callable
        Take bytes from the store's space, refusing with `PayloadSpaceExhausted`, and give back.
    """

    def __init__(
        self,
        lock: AbstractContextManager[object],
        reserve: Callable[[int], None],
        release: Callable[[int], None],
    ) -> None:
        self._lock = lock
        self._reserve = reserve
        self._release = release
        self._partials: dict[bytes, PartialPayload] = {}

    def __len__(self) -> int:
        return len(self._partials)

    def get(self, payload_hash: bytes) -> PartialPayload | None:
        """Return one that is arriving."""
        return self._partials.get(payload_hash)

    def begin(
        self,
        made: PartialPayload,
        create: Callable[[], None],
        is_stored: Callable[[bytes], bool],
        *,
        is_size_sure: bool,
    ) -> PartialPayload:
        """Take up a new one, whose place on the disk is then created, or go on with a known one.

        Raises
        ------
        PayloadMismatch
            One with this address is arriving that has another size.
        PayloadSpaceExhausted
            There is no room for it, or too many are arriving. Nothing was created.
        DiskFull, StorageInaccessible, DatabaseDamaged, StorageClosed
        """
        known = self.get(made.payload_hash)
        if known is not None:
            # Without the lock, which is never held when a partial payload's own is taken.
            known.make_way(made.size, is_sure=is_size_sure)
        with self._lock:
            partial = self.get(made.payload_hash)
            if partial is not None:
                if partial.size != made.size:
                    raise _make_other_size(partial, made.size)
                partial.is_continued = True
                return partial
            if is_stored(made.payload_hash):
                made.mark_stored()
            else:
                self._add(made, create)
            return made

    def restore(self, partial: PartialPayload) -> bool:
        """Take up one that a restart has interrupted; tell whether there is room for it still."""
        try:
            self._reserve(partial.size)
        except PayloadSpaceExhausted:
            return False
        self._partials[partial.payload_hash] = partial
        return True

    def remove(self, partial: PartialPayload, *, is_stored: bool) -> None:
        """Give up a place; the space stays taken by what is stored."""
        with self._lock:
            if self._partials.get(partial.payload_hash) is partial:
                del self._partials[partial.payload_hash]
                if not is_stored:
                    self._release(partial.size)

    def get_all(self) -> tuple[PartialPayload, ...]:
        """Return all that are arriving, in the order in which they began."""
        return tuple(self._partials.values())

    def _add(self, partial: PartialPayload, create: Callable[[], None]) -> None:
        if len(self._partials) >= PARTIALS_MAX:
            raise PayloadSpaceExhausted(
                f"{PARTIALS_MAX} payloads are arriving already: try again later."
            )
        self._reserve(partial.size)
        self._partials[partial.payload_hash] = partial
        try:
            create()
        except StorageError:
            self.remove(partial, is_stored=False)
            raise

    def sweep(self) -> int:
        """Abandon those that nobody has continued since the last call; return how many."""
        with self._lock:
            idle = [partial for partial in self._partials.values() if not partial.is_continued]
            for partial in self._partials.values():
                partial.is_continued = False
        for partial in idle:
            partial.abandon()
        return len(idle)


def _make_other_size(partial: PartialPayload, size: int) -> PayloadMismatch:
    """Return the refusal of a payload that is arriving with another size."""
    return PayloadMismatch(
        f"A payload with the hash {partial.payload_hash.hex()} and {partial.size} bytes arrives "
        f"already, not one of {size}: send the bytes that were hashed, or try again in a while."
    )


def validate_beginning(
    payload_hash: bytes, size: int, chunk_hashes: Sequence[Hash], bytes_max: int
) -> None:
    """Raise unless these can be the size and the chunk hashes of a payload that may be stored.

    Raises
    ------
    PayloadMismatch
        The hashes do not belong to the address and the size.
    PayloadTooLarge
        It has more than `bytes_max` bytes.
    """
    if size > bytes_max:
        raise PayloadTooLarge(
            f"The payload has {size} bytes, and one payload may have {bytes_max}: send less."
        )
    if size < 1 or not are_chunk_hashes_valid(Hash(payload_hash), size, chunk_hashes):
        raise PayloadMismatch(
            f"{len(chunk_hashes)} chunk hashes do not belong to a payload of {size} bytes with the "
            f"hash {payload_hash.hex()}: hash each MiB of it, in order."
        )
