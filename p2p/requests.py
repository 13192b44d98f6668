"""Requests: questions to one peer and their answers, on a stream beside the link.

Owns both ends of that stream: `Asker` opens it and asks, `Answerer` serves the one that the peer
has opened. Answers leave in pieces within the budget for bulk, so that a megabyte never stands
before a vote for long. Never verifies an answer: that is the node's.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from p2p.frames import (
    ANSWER_HEADER_BYTES,
    REQUEST_HEADER_BYTES,
    FrameError,
    FrameReader,
    Kind,
    build_answer,
    build_refusal,
    build_request,
    build_too_large,
    read_answer_id,
    read_request,
    read_text,
)
from p2p.network import (
    REQUEST_BYTES_MAX,
    REQUESTS_OUTSTANDING_MAX,
    REQUESTS_SERVED_MAX,
    RESPONSE_BYTES_MAX,
    NetworkHandler,
    PeerGone,
    PeerId,
    RequestFailed,
    RequestRefused,
    RequestRejected,
    RequestTimedOut,
    RequestTooLarge,
    TooManyRequests,
)
from p2p.pacing import PIECE_BYTES, Pacer
from p2p.scoring import PENALTY_MALFORMED, PENALTY_OVERLONG, PENALTY_UNSOLICITED
from p2p.wire import Wire, WireClosed

READ_BYTES: Final = 256 * 1024
"""Most bytes taken from the stream at a time."""

ABANDONED_MAX: Final = 1024
"""Requests that we no longer wait for, but whose late answer is no fault of the peer."""

ANSWERS_HELD_MAX: Final = 32
"""Answers of all peers together that may be in memory."""

ANSWERS_HELD_PER_PEER_MAX: Final = 8
"""Answers to one peer that may be in memory."""

OnFault = Callable[[PeerId, int, str], None]
"""Called with the peer, a penalty and a sentence when a peer breaks the protocol."""


@dataclass(slots=True, eq=False)
class _Pending:
    response_bytes_max: int
    done: trio.Event = field(default_factory=trio.Event)
    answer: bytes = b""
    failure: RequestFailed | None = None


class Asker:
    """Our questions to one peer.

    Parameters
    ----------
    peer
        The peer.
    open_wire
        Opens the stream; called at the first question, and again after the stream broke.
    on_fault
        Called when the peer breaks the protocol.
    """

    def __init__(
        self, peer: PeerId, open_wire: Callable[[], Awaitable[Wire]], on_fault: OnFault
    ) -> None:
        self._peer = peer
        self._open_wire = open_wire
        self._on_fault = on_fault
        self._pending: dict[int, _Pending] = {}
        self._abandoned: dict[int, None] = {}
        self._unsent: list[bytes] = []
        self._due = trio.Event()
        self._last_id = 0
        self._closed = False
        self.bytes_sent = 0
        self.bytes_received = 0

    async def request(self, body: bytes, *, response_bytes_max: int, timeout_s: float) -> bytes:
        """Ask; see `p2p.network.Network.request`."""
        if len(body) > REQUEST_BYTES_MAX:
            raise RequestTooLarge(f"a request has at most {REQUEST_BYTES_MAX} bytes")
        if self._closed:
            raise PeerGone(f"no link with {self._peer}")
        if len(self._pending) >= REQUESTS_OUTSTANDING_MAX:
            raise TooManyRequests(
                f"{REQUESTS_OUTSTANDING_MAX} requests already wait for {self._peer}"
            )
        self._last_id = (self._last_id + 1) % 2**32
        request_id = self._last_id
        response_bytes_max = min(response_bytes_max, RESPONSE_BYTES_MAX)
        pending = _Pending(response_bytes_max)
        self._pending[request_id] = pending
        self._unsent.append(build_request(request_id, response_bytes_max, body))
        self._due.set()
        try:
            with trio.fail_after(timeout_s):
                await pending.done.wait()
        except trio.TooSlowError:
            raise RequestTimedOut(f"{self._peer} did not answer in {timeout_s} s") from None
        finally:
            if self._pending.pop(request_id, None) is not None and not pending.done.is_set():
                self._abandon(request_id)
        if pending.failure is not None:
            raise pending.failure
        return pending.answer

    async def run(self) -> None:
        """Serve `request` until cancelled."""
        try:
            while True:
                await self._due.wait()
                try:
                    wire = await self._open_wire()
                except WireClosed as error:
                    self._fail_all(str(error))
                    continue
                await self._run_wire(wire)
                self._fail_all("the stream of requests broke")
        finally:
            self._closed = True
            self._fail_all(f"the link with {self._peer} closed before it answered")

    async def _run_wire(self, wire: Wire) -> None:
        ended = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, wire, ended)
            nursery.start_soon(self._read, wire, ended)
            try:
                await ended.wait()
            finally:
                ended.set()
                self._due.set()
                with trio.CancelScope(shield=True):
                    await wire.reset()

    async def _write(self, wire: Wire, ended: trio.Event) -> None:
        with trio.CancelScope(shield=True):
            try:
                while not ended.is_set():
                    if not self._unsent:
                        self._due = trio.Event()
                        await self._due.wait()
                        continue
                    data = b"".join(self._unsent)
                    self._unsent.clear()
                    self.bytes_sent += len(data)
                    await wire.write(data)
            except WireClosed:
                ended.set()

    async def _read(self, wire: Wire, ended: trio.Event) -> None:
        with trio.CancelScope(shield=True):
            reader = FrameReader()
            try:
                while not ended.is_set():
                    chunk = await wire.read(READ_BYTES)
                    if not chunk:
                        break
                    self.bytes_received += len(chunk)
                    for kind, body in reader.feed(chunk):
                        self._take(kind, body)
            except WireClosed:
                pass
            except FrameError as error:
                self._on_fault(self._peer, PENALTY_MALFORMED, str(error))
            finally:
                ended.set()

    def _take(self, kind: int, body: bytes) -> None:
        if kind not in {Kind.ANSWER, Kind.REFUSAL, Kind.TOO_LARGE}:
            raise FrameError(f"a frame of kind {kind} is no answer")
        request_id = read_answer_id(body)
        pending = self._pending.get(request_id)
        if pending is None or pending.done.is_set():
            if request_id not in self._abandoned:
                self._on_fault(self._peer, PENALTY_UNSOLICITED, "an answer that nobody asked for")
            self._abandoned.pop(request_id, None)
            return
        n_bytes = len(body) - ANSWER_HEADER_BYTES
        if kind == Kind.REFUSAL:
            pending.failure = RequestRejected(read_text(body[ANSWER_HEADER_BYTES:]))
        elif kind == Kind.TOO_LARGE or n_bytes > pending.response_bytes_max:
            pending.failure = RequestTooLarge(
                f"{self._peer} answers with more than {pending.response_bytes_max} bytes"
            )
            if kind == Kind.ANSWER:
                self._on_fault(self._peer, PENALTY_OVERLONG, "an answer longer than allowed")
        else:
            pending.answer = body[ANSWER_HEADER_BYTES:]
        pending.done.set()

    def _abandon(self, request_id: int) -> None:
        self._abandoned[request_id] = None
        if len(self._abandoned) > ABANDONED_MAX:
            del self._abandoned[next(iter(self._abandoned))]

    def _fail_all(self, reason: str) -> None:
        self._unsent.clear()
        self._abandoned.clear()
        self._due = trio.Event()
        for pending in self._pending.values():
            if not pending.done.is_set():
                pending.failure = PeerGone(reason)
                pending.done.set()


class Answerer:
    """One peer's questions to us.

    Parameters
    ----------
    wire
        The stream that the peer has opened.
    handler
        The node.
    pacer
        The budget for bulk, shared by all links.
    held
        Bounds the answers in memory, for all peers together.
    on_fault
        Called when the peer breaks the protocol.
    """

    def __init__(
        self,
        wire: Wire,
        handler: NetworkHandler,
        pacer: Pacer,
        held: trio.CapacityLimiter,
        on_fault: OnFault,
    ) -> None:
        self._wire = wire
        self._handler = handler
        self._pacer = pacer
        self._held = held
        self._held_here = trio.Semaphore(ANSWERS_HELD_PER_PEER_MAX)
        self._on_fault = on_fault
        self._n_served = 0
        self._write_lock = trio.Lock()
        self.ended = trio.Event()
        self.bytes_sent = 0
        self.bytes_received = 0

    async def run(self) -> None:
        """Answer until the stream ends or this is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, nursery)
            try:
                await self.ended.wait()
            finally:
                self.ended.set()
                with trio.CancelScope(shield=True):
                    await self._wire.reset()
                nursery.cancel_scope.cancel()

    async def _read(self, nursery: trio.Nursery) -> None:
        with trio.CancelScope(shield=True):
            reader = FrameReader(REQUEST_BYTES_MAX + REQUEST_HEADER_BYTES + 5)
            try:
                while not self.ended.is_set():
                    chunk = await self._wire.read(READ_BYTES)
                    if not chunk:
                        break
                    self.bytes_received += len(chunk)
                    for kind, body in reader.feed(chunk):
                        self._take(nursery, kind, body)
            except WireClosed:
                pass
            except FrameError as error:
                self._on_fault(self._wire.peer, PENALTY_MALFORMED, str(error))
            finally:
                self.ended.set()

    def _take(self, nursery: trio.Nursery, kind: int, body: bytes) -> None:
        if kind != Kind.REQUEST:
            raise FrameError(f"a frame of kind {kind} is no request")
        request_id, response_bytes_max = read_request(body)
        if self._n_served >= 2 * REQUESTS_SERVED_MAX:
            raise FrameError("more requests at a time than any honest node sends")
        is_refused = self._n_served >= REQUESTS_SERVED_MAX
        self._n_served += 1
        if is_refused:
            refusal = build_refusal(request_id, "too many requests at a time")
            nursery.start_soon(self._write, refusal)
        else:
            question = body[REQUEST_HEADER_BYTES:]
            nursery.start_soon(self._answer, request_id, response_bytes_max, question)

    async def _answer(self, request_id: int, response_bytes_max: int, question: bytes) -> None:
        async with self._held_here, self._held:
            try:
                answer = await self._handler.handle_request(self._wire.peer, question)
            except RequestRefused as refusal:
                frame = build_refusal(request_id, str(refusal))
            else:
                if len(answer) > RESPONSE_BYTES_MAX:
                    raise ValueError(f"an answer has at most {RESPONSE_BYTES_MAX} bytes")
                if len(answer) > response_bytes_max:
                    frame = build_too_large(request_id)
                else:
                    frame = build_answer(request_id, answer)
            await self._write(frame)

    async def _write(self, frame: bytes) -> None:
        # Pieces of two answers must not mix, and no piece may be cut: one lock, shielded.
        try:
            async with self._write_lock:
                with trio.CancelScope(shield=True):
                    for start in range(0, len(frame), PIECE_BYTES):
                        piece = frame[start : start + PIECE_BYTES]
                        await self._pacer.wait(len(piece))
                        if self.ended.is_set():
                            return
                        self.bytes_sent += len(piece)
                        await self._wire.write(piece)
        except WireClosed:
            self.ended.set()
        finally:
            self._n_served -= 1
