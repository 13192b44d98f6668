"""Payloads that own users upload ahead of the transactions that name them.

Owns what may be uploaded, how many uploads are open at a time, and how long one waits for its
transaction. Never looks at the bytes: the store verifies each chunk against the hash that was
announced for it, and the ledger judges the whole when a transaction names it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio
from quorate.chain.content import count_chunks
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root_of_hashes

from store.errors import (
    PayloadAbandoned,
    PayloadMismatch,
    PayloadSpaceExhausted,
    PayloadTooLarge,
)
from store.partial_payload import PartialPayload
from store.payload_contract import Payloads

UPLOADS_MAX: Final = 64
"""Uploads of own users that are open at a time, beside what the node pulls from its peers."""
WAITING_MAX: Final = 1_024
"""Whole uploads that wait for a transaction that names them."""
ROOM_PART: Final = 4
"""What is open and what waits takes at most one part in so many of the payload store's room, or one
payload's if that is more: the chain needs the rest. Room is kept from an upload's beginning on."""
KEPT_MS: Final = 600_000
"""How long a whole upload waits for a transaction that names it, in block time."""
WRITES_MAX: Final = 4
"""Chunks that are verified and written at a time, each in a thread."""


@dataclass(frozen=True, slots=True)
class UploadState:
    """Where a payload stands.

    Attributes
    ----------
    payload_hash : bytes, 32
    size : int
    missing : tuple of int
        The chunks that are not here.
    """

    payload_hash: Hash
    size: int
    missing: tuple[int, ...]


@dataclass(slots=True)
class _Writer:
    """The threads that work on a payload."""

    count: int = 0
    ended: trio.Event = field(default_factory=trio.Event)


class Uploads:
    """The door for payloads of own users.

    Parameters
    ----------
    payloads : Payloads
        Where they go.
    bytes_max, room_bytes_max : int
        The most bytes of one, and of all together that are open or wait.
    is_named : callable
        Tells whether a pending transaction names a payload.
    release : callable
        Lets payloads go at a time, in milliseconds, unless they are needed by then.
    now_ms : callable
        The wall clock, in milliseconds.
    uploads_max, waiting_max, kept_ms : int
        The limits.
    """

    def __init__(
        self,
        payloads: Payloads,
        bytes_max: int,
        room_bytes_max: int,
        is_named: Callable[[Hash], bool],
        release: Callable[[Iterable[Hash], int], None],
        now_ms: Callable[[], int],
        *,
        uploads_max: int = UPLOADS_MAX,
        waiting_max: int = WAITING_MAX,
        kept_ms: int = KEPT_MS,
    ) -> None:
        self._payloads = payloads
        self._bytes_max = bytes_max
        self._room_bytes_max = max(room_bytes_max, bytes_max)
        self._is_named = is_named
        self._release = release
        self._now_ms = now_ms
        self._uploads_max = uploads_max
        self._waiting_max = waiting_max
        self._kept_ms = kept_ms
        self._open: dict[Hash, int] = {}
        # Sizes, and until when they wait.
        self._waiting: dict[Hash, tuple[int, int]] = {}
        # As many as there are requests at a time, and so are the writers.
        self._beginning: Counter[Hash] = Counter()
        self._writing = trio.CapacityLimiter(WRITES_MAX)
        self._writers: dict[Hash, _Writer] = {}

    @property
    def open_count(self) -> int:
        """The uploads that are not whole yet."""
        self._forget_ended()
        return len(self._open)

    def notice_submission(self) -> None:
        """Let go of those that a pending transaction names by now: the chain's limits hold them."""
        now_ms = self._now_ms()
        for payload_hash, (_, until_ms) in list(self._waiting.items()):
            if until_ms <= now_ms or self._is_named(payload_hash):
                del self._waiting[payload_hash]

    async def begin(self, size: int, chunk_hashes: Sequence[Hash]) -> UploadState:
        """Begin an upload, or tell where it stands.

        Raises
        ------
        TransactionError
            `too_large`, `payload_mismatch` if there are too many or too few hashes for the size, or
            it is arriving with another, `quota_exceeded` if too many uploads are open or wait to be
            named, or have too many bytes together, `mempool_full` if there is no room.
        """
        if size > self._bytes_max:
            raise TransactionError(
                ErrorCode.TOO_LARGE,
                f"The payload has {size} bytes; this node takes at most {self._bytes_max} "
                "(payload_bytes_max of [mempool] in its settings).",
            )
        payload_hash = compute_root_of_hashes(chunk_hashes)
        self._check_room(payload_hash, size)
        self._open[payload_hash] = size
        self._beginning[payload_hash] += 1
        try:
            with _translated():
                partial = await trio.to_thread.run_sync(
                    self._payloads.begin, payload_hash, size, chunk_hashes, limiter=self._writing
                )
            return await self._describe(partial)
        finally:
            self._beginning[payload_hash] -= 1
            self._beginning += Counter()

    async def get(self, payload_hash: Hash) -> UploadState | None:
        """Return where a payload stands, or None if nothing of it is here."""
        partial, size = await self._find(payload_hash)
        if partial is not None:
            return await self._describe(partial)
        return None if size is None else UploadState(payload_hash, size, ())

    async def put_chunk(self, payload_hash: Hash, index: int, chunk: bytes) -> None:
        """Take a chunk; with the last one the payload is durable before this returns.

        Raises
        ------
        TransactionError
            `not_found` if there is no such upload or no such chunk of it, `payload_mismatch` if
            these are not its bytes.
        """
        partial, size = await self._find(payload_hash)
        if size is None:
            raise _make_unknown()
        count = count_chunks(size)
        if not 0 <= index < count:
            raise TransactionError(
                ErrorCode.NOT_FOUND,
                f"The payload has {count} chunks, from 0 to {count - 1}: there is no {index}.",
            )
        if partial is None:
            # It is whole; who sends a chunk of it again has missed the answer.
            return
        with self._noted(payload_hash), _translated():
            is_whole = await trio.to_thread.run_sync(
                self._write, partial, index, chunk, limiter=self._writing
            )
        if is_whole:
            self._note_whole(payload_hash, size)

    async def _find(self, payload_hash: Hash) -> tuple[PartialPayload | None, int | None]:
        """Return what is here of a payload: arriving with its size, stored with its size, or not.

        One that a thread is just making whole may be neither for a moment.
        """
        while True:
            partial = self._payloads.get_partial(payload_hash)
            if partial is not None:
                return partial, partial.size
            size = self._payloads.size(payload_hash)
            writer = self._writers.get(payload_hash)
            if size is not None or writer is None:
                return None, size
            await writer.ended.wait()

    @contextmanager
    def _noted(self, payload_hash: Hash) -> Iterator[None]:
        """Note that a thread works on a payload."""
        writer = self._writers.setdefault(payload_hash, _Writer())
        writer.count += 1
        try:
            yield
        finally:
            writer.count -= 1
            if not writer.count:
                del self._writers[payload_hash]
                writer.ended.set()

    def _write(self, partial: PartialPayload, index: int, chunk: bytes) -> bool:
        """Keep a chunk; tell whether the payload is whole with it."""
        partial.write(index, chunk)
        return not _go_on(partial)

    async def _describe(self, partial: PartialPayload) -> UploadState:
        if partial.is_finished:
            return UploadState(partial.payload_hash, partial.size, ())
        with self._noted(partial.payload_hash), _translated():
            # After a restart, this reads what is there.
            missing = await trio.to_thread.run_sync(_go_on, partial, limiter=self._writing)
        if not missing:
            self._note_whole(partial.payload_hash, partial.size)
        return UploadState(partial.payload_hash, partial.size, missing)

    def _note_whole(self, payload_hash: Hash, size: int) -> None:
        self._open.pop(payload_hash, None)
        until_ms = self._now_ms() + self._kept_ms
        self._waiting[payload_hash] = size, until_ms
        self._release([payload_hash], until_ms)

    def _check_room(self, payload_hash: Hash, size: int) -> None:
        """Raise `quota_exceeded` if one more upload would be too many, or too much."""
        payloads = self._payloads
        if payloads.get_partial(payload_hash) is not None or payloads.has(payload_hash):
            return
        if self.open_count >= self._uploads_max:
            raise TransactionError(
                ErrorCode.QUOTA_EXCEEDED,
                f"{self._uploads_max} uploads are open already: finish one, or try again later.",
            )
        self.notice_submission()
        waiting = [size for size, _ in self._waiting.values()]
        # Those that are open will wait, too.
        if len(waiting) + len(self._open) >= self._waiting_max:
            raise TransactionError(
                ErrorCode.QUOTA_EXCEEDED,
                f"{len(waiting)} uploads wait for a transaction already: submit those that name "
                "them, or try again later.",
            )
        taken = sum(self._open.values()) + sum(waiting)
        if taken + size > self._room_bytes_max:
            raise TransactionError(
                ErrorCode.QUOTA_EXCEEDED,
                f"Uploads that no transaction names have {taken} bytes already, and with {size} "
                f"more it would be over {self._room_bytes_max}: submit the transactions that name "
                "them, or try again later.",
            )

    def _forget_ended(self) -> None:
        """Forget those that were dropped, or came in another way."""
        for payload_hash in list(self._open):
            is_begun = self._payloads.get_partial(payload_hash) is not None
            if not is_begun and payload_hash not in self._beginning:
                del self._open[payload_hash]


def _go_on(partial: PartialPayload) -> tuple[int, ...]:
    """Return the chunks that are missing; without any, the payload is made durable.

    A crash, or a disk without room, may have come between the last chunk and that.
    """
    missing = partial.missing()
    if not missing:
        partial.finish()
    return missing


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what a client is told in the place of what the store refuses."""
    try:
        yield
    except PayloadMismatch as error:
        raise TransactionError(ErrorCode.PAYLOAD_MISMATCH, str(error)) from error
    except PayloadTooLarge as error:
        raise TransactionError(ErrorCode.TOO_LARGE, str(error)) from error
    except PayloadSpaceExhausted as error:
        raise TransactionError(ErrorCode.MEMPOOL_FULL, str(error)) from error
    except PayloadAbandoned as error:
        raise _make_unknown() from error


def _make_unknown() -> TransactionError:
    return TransactionError(
        ErrorCode.NOT_FOUND,
        "This node has no upload of this payload, or has dropped it: begin it (again) with "
        "POST /v1/payloads.",
    )
