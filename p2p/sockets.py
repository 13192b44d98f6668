"""Sockets: what py-libp2p reads, writes and accepts, in a form that holds up.

Owns accepted connections until their handshake is done. Never looks into the bytes.
"""

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakSet

import trio

from p2p.address import Address
from p2p.network import ListenError

logger = logging.getLogger("p2p")

SOCKET_READ_BYTES: Final = 256 * 1024
"""Most bytes taken from a socket at a time."""

HALF_OPEN_MAX: Final = 1024
"""Accepted sockets whose handshake is not done; one more closes the oldest."""

BACKLOG: Final = 1024
"""Connections that the kernel may hold before they are accepted."""

SETTING: Final = "[p2p] listen"
"""How an operator calls the address to listen on."""


class SocketStream:
    """A socket that is read in large pieces, and tells when it is closed.

    py-libp2p's own asks the kernel for every length field, and hands over what one packet brought,
    on which its ``read_exactly`` gives up after 100 pieces: `read` waits for all it is asked for.

    Parameters
    ----------
    stream
        The socket.
    build_error
        Makes the error that a broken connection raises.

    Attributes
    ----------
    closed
        Set as soon as `close` is called.
    """

    def __init__(self, stream: trio.SocketStream, build_error: Callable[[str], Exception]) -> None:
        self.closed = trio.Event()
        self._stream = stream
        self._build_error = build_error
        self._read_lock = trio.Lock()
        self._write_lock = trio.Lock()
        self._received = b""
        self._position = 0
        self._remote: tuple[str, int] | None = None

    async def read(self, n: int | None = None) -> bytes:
        """Read exactly `n` bytes, fewer at the end; without `n` what is there."""
        n_wanted = 1 if n is None else n
        async with self._read_lock:
            if self._position + n_wanted > len(self._received):
                await self._receive(n_wanted)
            end = len(self._received) if n is None else self._position + n
            data = self._received[self._position : end]
            self._position += len(data)
        return data

    async def _receive(self, n_bytes: int) -> None:
        parts = [self._received[self._position :]]
        n_missing = n_bytes - len(parts[0])
        while n_missing > 0:
            try:
                part = bytes(await self._stream.receive_some(SOCKET_READ_BYTES))
            except trio.BrokenResourceError as error:
                raise self._build_error(str(error)) from error
            except trio.ClosedResourceError:
                break
            if not part:
                break
            parts.append(part)
            n_missing -= len(part)
        self._received, self._position = b"".join(parts), 0

    async def write(self, data: bytes) -> None:
        """Write all of `data`."""
        async with self._write_lock:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise self._build_error(str(error)) from error

    async def close(self) -> None:
        """Close the socket; a write that is stuck in it ends."""
        self.closed.set()
        await self._stream.aclose()

    def abort(self) -> None:
        """Close the socket without waiting for anything."""
        self.closed.set()
        self._stream.socket.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Give IP address and port of the other end; None once it is gone."""
        if self._remote is None:
            try:
                host, port = self._stream.socket.getpeername()[:2]
            except OSError:
                return None
            self._remote = (str(host), int(port))
        return self._remote


async def bind(address: Address) -> trio.SocketListener:
    """Listen on `address`.

    Not with SO_REUSEPORT, as py-libp2p does: a second node would take the same port and get half of
    the connections.

    Raises
    ------
    ListenError
        With a sentence that says why not.
    """
    if address.host_kind not in {"ip4", "ip6"}:
        raise ListenError(
            f"cannot listen on {address.location}: an IP address is needed, so set one of this "
            f"machine's in {SETTING}"
        )
    family = socket.AF_INET6 if address.host_kind == "ip6" else socket.AF_INET
    sock: trio.socket.SocketType | None = None
    try:
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
    except OSError as error:
        if sock is not None:
            sock.close()
        reasons = {
            errno.EADDRINUSE: "the port is in use: stop the program that uses it, or",
            errno.EADDRNOTAVAIL: "this machine has no such address:",
            errno.EACCES: "ports below 1024 need the system's permission:",
        }
        reason = reasons.get(error.errno or 0, f"{error.strerror or error}:")
        raise ListenError(
            f"cannot listen on {address.location}: {reason} set another address in {SETTING}"
        ) from error
    return trio.SocketListener(sock)


def get_bound_address(listener: trio.SocketListener) -> Address:
    """Give the address that a listener is bound to, with its port."""
    host, port = listener.socket.getsockname()[:2]
    kind = "ip6" if listener.socket.family == socket.AF_INET6 else "ip4"
    return Address(kind, host, port, None)


class Acceptor:
    """Accepts connections, and knows every socket of a host.

    py-libp2p's own listener never ends the task of a connection, nor frees its slot.

    Parameters
    ----------
    build_error
        As for `SocketStream`.
    """

    def __init__(self, build_error: Callable[[str], Exception]) -> None:
        self.half_open: dict[tuple[str, int], SocketStream] = {}
        self.sockets: WeakSet[SocketStream] = WeakSet()
        self._build_error = build_error
        self._scope = trio.CancelScope()

    async def serve(
        self,
        listener: trio.SocketListener,
        handler: Callable[[SocketStream], Awaitable[None]],
        nursery: trio.Nursery,
    ) -> None:
        """Accept until `close`; each connection is handled by a task in `nursery`."""

        async def accept(stream: trio.SocketStream) -> None:
            await self._accept(stream, handler)

        try:
            with self._scope:
                await trio.serve_listeners(accept, [listener], handler_nursery=nursery)
        finally:
            with trio.CancelScope(shield=True):
                await listener.aclose()

    def wrap(self, stream: trio.SocketStream) -> SocketStream:
        """Make a `SocketStream` that `abort_all` knows."""
        sock = SocketStream(stream, self._build_error)
        self.sockets.add(sock)
        return sock

    def close(self) -> None:
        """Accept no more."""
        self._scope.cancel()

    def abort_all(self) -> None:
        """Close every socket that is still open."""
        for sock in list(self.sockets):
            sock.abort()

    async def _accept(
        self, stream: trio.SocketStream, handler: Callable[[SocketStream], Awaitable[None]]
    ) -> None:
        sock = self.wrap(stream)
        remote = sock.get_remote_address()
        if remote is None:
            await sock.close()
            return
        self.half_open[remote] = sock
        if len(self.half_open) > HALF_OPEN_MAX:
            await self.half_open.pop(next(iter(self.half_open))).close()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, sock.closed, nursery.cancel_scope)
                await handler(sock)
                nursery.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - no connection may end the listener.
            logger.debug("an accepted connection failed: %r", error)
        finally:
            self.half_open.pop(remote, None)
            with trio.CancelScope(shield=True):
                await sock.close()


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
