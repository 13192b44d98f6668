"""A link: the long-lived stream of messages to one peer.

Owns reading, writing and the end of that stream. One task writes, shielded, and puts many frames
into one write; one task reads and hands every message to the node at once, so that reading never
waits for the node. Never decides who is welcome, and never waits for a slow peer: what does not fit
its queue is dropped, and a link whose consensus queue overflows is closed.
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from p2p.frames import (
    HEARTBEAT_HEADER_BYTES,
    FrameError,
    FrameReader,
    Hello,
    Kind,
    build_echo,
    build_text,
    read_addresses,
    read_nonce,
    read_text,
)
from p2p.network import STATUS_BYTES_MAX, NetworkHandler, PeerId, Priority
from p2p.outbox import Outbox
from p2p.pacing import PIECE_BYTES, Pacer
from p2p.wire import Wire, WireClosed

logger = logging.getLogger("p2p")

READ_BYTES: Final = 256 * 1024
"""Most bytes taken from the stream at a time."""

GOODBYE_S: Final = 1.0
"""Seconds that the last frames of an orderly end have to leave."""

_PRIORITIES: Final = {Kind.MESSAGE + priority: priority for priority in Priority}


class Link:
    """One link, from the end of its handshake to its end.

    Parameters
    ----------
    wire
        The stream; its handshake is done.
    hello
        The peer's side of the handshake.
    outbound
        Whether we opened the stream.
    handler
        The node.
    pacer
        The budget for bulk, shared by all links.
    on_fault
        Called with a sentence when the peer breaks the protocol; the link ends.
    on_addresses
        Called with the addresses that the peer told, or with None when it asks for some.
    """

    def __init__(
        self,
        wire: Wire,
        hello: Hello,
        *,
        outbound: bool,
        handler: NetworkHandler,
        pacer: Pacer,
        on_fault: Callable[[PeerId, str], None],
        on_addresses: "Callable[[Link, tuple[str, ...] | None], None]",
    ) -> None:
        self.wire = wire
        self.peer = wire.peer
        self.hello = hello
        self.outbound = outbound
        self.outbox = Outbox()
        self.connected_at = trio.current_time()
        self.heard_at = self.connected_at
        self.bytes_sent = 0
        self.bytes_received = 0
        self.latency_ms: float | None = None
        self.addresses_asked = False
        self.addresses_told_at: float | None = None
        self.ending = trio.Event()
        self._handler = handler
        self._pacer = pacer
        self._on_fault = on_fault
        self._on_addresses = on_addresses
        self._goodbye: bytes | None = None
        self._written = trio.Event()
        self._beat: tuple[int, float] | None = None

    def send(self, priority: Priority, frame: bytes) -> bool:
        """Queue a frame of the node; see `p2p.network.Network.send`."""
        queued = self.outbox.put(priority, frame)
        if not queued and priority is Priority.CONSENSUS:
            self.end()
        return queued

    def beat(self, nonce: int, frame: bytes, now: float) -> None:
        """Send a heartbeat; one that still waits is replaced."""
        self._beat = (nonce, now)
        self.outbox.put_heartbeat(frame)

    def end(self, goodbye: str | None = None) -> None:
        """End the link: at once, or after what waits and a goodbye have left."""
        if not self.ending.is_set():
            if goodbye is None:
                self.outbox.clear()
            else:
                self._goodbye = build_text(Kind.GOODBYE, goodbye)
            self.ending.set()

    async def run(self, is_connection_used: "Callable[[Link], bool]") -> None:
        """Read and write until the link ends.

        Parameters
        ----------
        is_connection_used
            Asked at the end: whether another link lives on the same connection.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            nursery.start_soon(self._read)
            try:
                await self.ending.wait()
                await self._say_goodbye()
            finally:
                self.end()
                self.outbox.clear()
                with trio.CancelScope(shield=True):
                    if is_connection_used(self):
                        await self.wire.reset()
                    else:
                        await self.wire.force_close()

    async def _say_goodbye(self) -> None:
        if self._goodbye is not None:
            self.outbox.put_control(self._goodbye)
            self.outbox.close()
            with trio.move_on_after(GOODBYE_S):
                await self._written.wait()

    async def _write(self) -> None:
        # A write that is cancelled half way breaks the whole connection. A stuck one ends when the
        # connection is closed by force.
        with trio.CancelScope(shield=True):
            try:
                while await self._write_next():
                    pass
            except WireClosed:
                self.end()
            finally:
                self._written.set()

    async def _write_next(self) -> bool:
        """Write what may be written now, or wait; false after the last frame."""
        outbox = self.outbox
        delay = self._pacer.get_delay(trio.current_time())
        frames, n_bulk_bytes = outbox.take(PIECE_BYTES, with_bulk=delay == 0.0)
        if frames:
            if n_bulk_bytes:
                self._pacer.charge(n_bulk_bytes, trio.current_time())
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            self.bytes_sent += len(data)
            await self.wire.write(data)
            return True
        if outbox.closed:
            return False
        if len(outbox):
            with trio.move_on_after(delay):
                await outbox.wait()
        else:
            await outbox.wait()
        return True

    async def _read(self) -> None:
        # Reading sends credit to the peer, so it is shielded as writing is; it ends with the wire.
        with trio.CancelScope(shield=True):
            reader = FrameReader()
            try:
                while not self.ending.is_set():
                    chunk = await self.wire.read(READ_BYTES)
                    if not chunk:
                        break
                    self.heard_at = trio.current_time()
                    self.bytes_received += len(chunk)
                    for kind, body in reader.feed(chunk):
                        if self.ending.is_set():
                            break
                        self._dispatch(kind, body)
            except WireClosed:
                pass
            except FrameError as error:
                self._on_fault(self.peer, str(error))
            finally:
                self.end()

    def _dispatch(self, kind: int, body: bytes) -> None:
        priority = _PRIORITIES.get(kind)
        if priority is not None:
            self._handler.on_message(self.peer, priority, body)
            return
        match kind:
            case Kind.HEARTBEAT:
                self._take_heartbeat(body)
            case Kind.ECHO:
                self._take_echo(body)
            case Kind.ASK_ADDRESSES:
                self._on_addresses(self, None)
            case Kind.ADDRESSES:
                self._on_addresses(self, read_addresses(body))
            case Kind.GOODBYE | Kind.REFUSED:
                logger.debug("peer %s says goodbye: %s", self.peer, read_text(body))
                self.end()
            case _:
                raise FrameError(f"a frame of unknown kind {kind}")

    def _take_heartbeat(self, body: bytes) -> None:
        nonce = read_nonce(body)
        status = body[HEARTBEAT_HEADER_BYTES:]
        if len(status) > STATUS_BYTES_MAX:
            raise FrameError(f"a status has at most {STATUS_BYTES_MAX} bytes")
        if not self.outbox.put_control(build_echo(nonce)):
            # The peer asks for more than it reads.
            self.end()
            return
        self._handler.on_status(self.peer, status)

    def _take_echo(self, body: bytes) -> None:
        nonce = read_nonce(body)
        if self._beat is not None and self._beat[0] == nonce:
            self.latency_ms = 1000 * (trio.current_time() - self._beat[1])
            self._beat = None
