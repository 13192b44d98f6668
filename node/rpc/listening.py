"""Connections of clients: the socket, how many there are, how slow they may be, how they end.

Owns the listening sockets of the node's surfaces and the life of each connection; hypercorn speaks
HTTP on them. Never looks at a request. What goes wrong on a connection ends that connection alone.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Event, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState, LifespanState
from quorate.chain.errors import QuorateError

if TYPE_CHECKING:
    # The stubs of trio that come with libp2p keep this type here.
    from trio_typing import TaskStatus

CONNECTIONS_MAX: Final = 1_024
"""Open connections of one surface; one more is closed at once."""

STREAMS_PER_CONNECTION_MAX: Final = 8
"""Requests at a time on one HTTP/2 connection."""

READ_BYTES: Final = 256 << 10
"""What is read at a time at least: each piece of a body passes five layers, so that an upload in
pieces of 64 KiB, hypercorn's own choice, takes half as much processor time again."""

WRITE_BYTES: Final = 256 << 10
WRITE_S_MAX: Final = 10.0
"""A client that does not take `WRITE_BYTES` in as many seconds loses its connection."""

IDLE_S_MAX: Final = 30.0
"""An idle connection, or one that has not sent a whole head of a request, is closed after it."""

STOP_S_MAX: Final = 0.5
"""Requests in progress when the node stops may take as long."""

BACKLOG: Final = 128
HEAD_BYTES_MAX: Final = 16 << 10
REQUESTS_PER_CONNECTION_MAX: Final = 1_000_000

_log = structlog.get_logger("rpc")


class SurfaceListenError(QuorateError):
    """A surface's address cannot be listened on. The message is one sentence for the operator."""


async def bind(address: tuple[str, int], name: str, setting: str) -> trio.SocketListener:
    """Return a listener on an IP address and port; port 0 takes any free one.

    Parameters
    ----------
    address : (str, int)
    name, setting : str
        What the surface and its setting are called, for the operator.

    Raises
    ------
    SurfaceListenError
        If the address cannot be used.
    """
    host, port = address
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    listening = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        listening.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        await listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise SurfaceListenError(
            f"The {name} cannot listen on {host}:{port} "
            f"({(error.strerror or str(error)).lower()}): stop the program that uses the "
            f"port, or set another address in {setting}."
        ) from error
    return trio.SocketListener(listening)


class BoundedStream:
    """A connection whose other end must keep reading.

    Parameters
    ----------
    stream : trio.SocketStream
        The connection.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket, for its addresses."""
        return self._stream.socket

    async def receive_some(self, bytes_max: int) -> bytes:
        """Return what has arrived, up to `READ_BYTES` or more; nothing at the end."""
        return bytes(await self._stream.receive_some(max(bytes_max, READ_BYTES)))

    async def send_all(self, data: bytes) -> None:
        """Send everything.

        Raises
        ------
        trio.BrokenResourceError
            If the other end is gone, or too slow: then the connection is closed.
        """
        view = memoryview(data)
        for start in range(0, len(view), WRITE_BYTES):
            # The caller may have shielded this call; a deadline of its own ends it nevertheless.
            with trio.move_on_after(WRITE_S_MAX) as scope:
                await self._stream.send_all(view[start : start + WRITE_BYTES])
            if scope.cancelled_caught:
                self.abort()
                raise trio.BrokenResourceError("the client does not read")

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    def abort(self) -> None:
        """Close the connection at once; whoever waits on it is woken by an error."""
        self._stream.socket.close()


class Connection(TCPServer):
    """A connection that ends when its other end has gone.

    hypercorn's own would be held until it has been idle for long.
    """

    _is_over = False

    async def protocol_send(self, event: Event) -> None:
        """Perform what the protocol asks of the connection."""
        if not (self._is_over and isinstance(event, Updated)):
            await super().protocol_send(event)

    async def _read_data(self) -> None:
        await super()._read_data()
        self._is_over = True
        await self.idle_task.stop()


class HttpServer:
    """Serves one application on one address.

    Parameters
    ----------
    app : ASGI application
        Answers the requests.
    name : str
        What it is, for the operator: "RPC".
    setting : str
        Where its address is set: "[rpc] listen".
    on_stop : callable, optional
        Called when the server begins to stop, so that long answers end.
    connections_max : int
        Open connections.
    """

    def __init__(
        self,
        app: object,
        name: str,
        setting: str,
        *,
        on_stop: Callable[[], None] = lambda: None,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._app = ASGIWrapper(cast("ASGIFramework", app))
        self._name = name
        self._setting = setting
        self._on_stop = on_stop
        self._connections_max = connections_max
        self._config = make_hypercorn_config()
        self._context = WorkerContext(None)
        self._streams: set[BoundedStream] = set()
        self._stopping = trio.Event()
        self._changed = trio.Event()

    @property
    def connection_count(self) -> int:
        """Open connections."""
        return len(self._streams)

    async def run(
        self,
        listener: trio.SocketListener,
        *,
        task_status: "TaskStatus[str]" = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled, and close the listener; started with the URL."""
        async with trio.open_nursery() as nursery:
            connections: trio.Nursery = await nursery.start(self._hold_connections)
            try:
                task_status.started(get_url(listener))
                await trio.serve_listeners(
                    self._serve_connection, [listener], handler_nursery=connections
                )
            finally:
                listener.socket.close()
                self._on_stop()
                self._stopping.set()

    async def listen(self, address: tuple[str, int]) -> trio.SocketListener:
        """Return a listener on an IP address and port, as `bind` does.

        Raises
        ------
        SurfaceListenError
            If the address cannot be used.
        """
        return await bind(address, self._name, self._setting)

    async def _hold_connections(
        self, *, task_status: "TaskStatus[trio.Nursery]" = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the connections beyond the cancellation of the server, for a short while."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await self._stopping.wait()
                await self._context.terminated.set()
                with trio.move_on_after(STOP_S_MAX):
                    while self._streams:
                        self._changed = trio.Event()
                        await self._changed.wait()
                for stream in self._streams:
                    stream.abort()
                nursery.cancel_scope.cancel()

    async def _serve_connection(self, accepted: trio.SocketStream) -> None:
        if len(self._streams) >= self._connections_max:
            return
        stream = BoundedStream(accepted)
        self._streams.add(stream)
        try:
            await Connection(
                self._app,
                self._config,
                self._context,
                ConnectionState(LifespanState()),
                stream,  # type: ignore[arg-type]
            )
        except* Exception as group:  # noqa: BLE001
            # What a client makes the HTTP library stumble over must not end the node.
            _log.warning("connection_failed", surface=self._name, reason=repr(group.exceptions[0]))
        finally:
            self._streams.discard(stream)
            self._changed.set()


def get_url(listener: trio.SocketListener) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_hypercorn_config() -> HypercornConfig:
    """Return hypercorn's settings: its limits, and its log lines into the node's log."""
    config = HypercornConfig()
    config.errorlog = logging.getLogger("hypercorn.error")
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = IDLE_S_MAX
    config.keep_alive_max_requests = REQUESTS_PER_CONNECTION_MAX
    config.h2_max_concurrent_streams = STREAMS_PER_CONNECTION_MAX
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    return config
