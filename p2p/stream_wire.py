"""Streams of py-libp2p as wires: what is done with them, and what is done around them.

Owns a stream's reading, writing and end, and the end of the connection under it. Imports nothing of
py-libp2p: the few parts of its objects that matter here are written down as protocols.
"""

import logging
from typing import Final, Protocol, cast

import trio

from p2p.host_limits import (
    FORCE_CLOSE_S,
    RESET_S,
    STREAMS_PER_CONNECTION_MAX,
    UNREAD_BYTES_MAX,
)
from p2p.network import PeerId
from p2p.wire import ProtocolUnknown, WireClosed

logger = logging.getLogger("p2p")

NOT_SPOKEN: Final = "protocols not supported"
"""How the library's one error of negotiation begins when the peer has answered "na"."""


class SecuredConnection(Protocol):
    """A connection after the handshake of noise."""

    async def close(self) -> None:
        """Close the socket."""


class MuxedConnection(Protocol):
    """A connection of yamux."""

    peer_id: object
    secured_conn: SecuredConnection
    stream_buffers: dict[int, bytearray]
    stream_events: dict[int, trio.Event]

    def get_remote_address(self) -> tuple[str, int] | None:
        """Give IP address and port of the other end."""
        ...


class Connection(Protocol):
    """A connection of the swarm."""

    muxed_conn: MuxedConnection

    async def close(self) -> None:
        """Say goodbye, close, tidy up."""


class MuxedStream(Protocol):
    """A stream of yamux."""

    stream_id: int
    conn: MuxedConnection
    _pending_recv_release: int

    def _grow_threshold(self) -> int:
        """Return half of the receive window."""
        ...

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        """Let the peer send as much more as was read."""


class Stream(Protocol):
    """A stream of the swarm."""

    muxed_stream: MuxedStream
    swarm_conn: Connection

    async def read(self, n: int) -> bytes:
        """Read at most `n` bytes."""
        ...

    async def write(self, data: bytes) -> None:
        """Write all of `data`."""

    async def reset(self) -> None:
        """End the stream."""


class StreamWire:
    """A `p2p.wire.Wire` over a stream of py-libp2p."""

    def __init__(self, stream: object) -> None:
        self._stream = cast("Stream", stream)
        batch_window_updates(self._stream.muxed_stream)
        self._conn = self._stream.swarm_conn
        self.peer = get_peer(self._conn)
        remote = self._conn.muxed_conn.get_remote_address()
        self.remote_host = "" if remote is None else remote[0]
        kind = "ip6" if ":" in self.remote_host else "ip4"
        self.remote_address = "" if remote is None else f"/{kind}/{remote[0]}/tcp/{remote[1]}"

    @property
    def connection(self) -> object:
        """The connection under the stream."""
        return self._conn

    async def read(self, bytes_max: int) -> bytes:
        """Read what has arrived."""
        try:
            return await self._stream.read(bytes_max)
        except Exception as error:
            # The library raises errors of many unrelated classes here, and all mean one thing.
            raise WireClosed(f"{type(error).__name__}: {error}") from error

    async def write(self, data: bytes) -> None:
        """Write all of `data`."""
        try:
            await self._stream.write(data)
        except Exception as error:
            # As in `read`.
            raise WireClosed(f"{type(error).__name__}: {error}") from error

    async def reset(self) -> None:
        """End this stream alone."""
        with trio.CancelScope(shield=True), trio.move_on_after(RESET_S) as scope:
            scope.shield = True
            event = get_read_event(self._stream)
            try:
                await self._stream.reset()
            except Exception as error:  # noqa: BLE001 - the stream is gone, and that was the aim.
                logger.debug("reset: %r", error)
            event.set()
        if scope.cancelled_caught:
            await self.force_close()

    async def force_close(self) -> None:
        """Close the connection under the stream."""
        await force_close(self._conn)


def batch_window_updates(stream: MuxedStream) -> None:
    """Give a sender room again when half of the window was read, not after each read.

    The library does so after nearly every read: 18 messages for a megabyte, each encrypted, sent
    and taken apart, which were a quarter of the processor time of a transfer.
    """
    # None of these has another name.
    # ruff: noqa: SLF001
    send = stream._auto_tune_and_send_window_update

    async def send_when_due(*, bytes_read: int = 0) -> None:
        stream._pending_recv_release += bytes_read
        is_due = stream._pending_recv_release >= stream._grow_threshold()
        if is_due or not bytes_read:
            await send()

    stream._auto_tune_and_send_window_update = send_when_due  # type: ignore[method-assign]


def get_peer(conn: Connection) -> PeerId:
    """Give the authenticated peer id of a connection."""
    return PeerId(str(conn.muxed_conn.peer_id))


def get_read_event(stream: Stream) -> trio.Event:
    """Give the event that a reader of `stream` waits for.

    The library's reset forgets it without setting it, and leaves our own reader waiting for ever.
    """
    muxed = stream.muxed_stream
    return muxed.conn.stream_events.get(muxed.stream_id, trio.Event())


def build_open_error(protocol: str, error: Exception) -> WireClosed:
    """Make the error for a stream that could not be opened, from the library's."""
    if str(error).startswith(NOT_SPOKEN):
        return ProtocolUnknown(f"the peer does not speak {protocol}")
    return WireClosed(f"cannot open {protocol}: {error!r}")


async def force_close(conn: Connection) -> None:
    """Close a connection even while a write to it is stuck.

    The library's own ``close`` first waits for the lock of the stuck write. Closing the socket
    under it ends that write.
    """
    with trio.CancelScope(shield=True):
        try:
            await conn.muxed_conn.secured_conn.close()
        except Exception as error:  # noqa: BLE001 - already closed, in one of many ways.
            logger.debug("force close: %r", error)
        with trio.move_on_after(FORCE_CLOSE_S):
            try:
                await conn.close()
            except Exception as error:  # noqa: BLE001 - already closed, in one of many ways.
                logger.debug("close: %r", error)


def has_too_much_unread(conn: Connection) -> bool:
    """Tell whether a peer ignores its receive window: the library only logs that."""
    buffers = conn.muxed_conn.stream_buffers
    return (
        sum(map(len, buffers.values())) > UNREAD_BYTES_MAX
        or len(buffers) > 2 * STREAMS_PER_CONNECTION_MAX
    )
