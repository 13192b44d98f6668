"""Connections under the streams: which stay, and which are closed.

Owns the judgement of new connections and the watch over old ones. Never opens any.
"""

import logging
from collections.abc import Callable

import trio

from p2p.host_limits import LINKLESS_S, WATCH_S
from p2p.sockets import Acceptor
from p2p.stream_wire import Connection, force_close, get_peer, has_too_much_unread
from p2p.wire import HostOwner

logger = logging.getLogger("p2p")


class ConnectionWatch:
    """Closes connections that are not welcome, that nobody uses, and that flood.

    Parameters
    ----------
    owner
        Who is asked.
    acceptor
        Where accepted sockets are until they are connections.
    list_live
        Lists the connections of the host.
    """

    def __init__(
        self, owner: HostOwner, acceptor: Acceptor, list_live: Callable[[], list[Connection]]
    ) -> None:
        self._owner = owner
        self._acceptor = acceptor
        self._list_live = list_live
        self._nursery: trio.Nursery | None = None
        self._began: dict[Connection, float] = {}

    def judge(self, conn: Connection) -> None:
        """Decide about a new connection."""
        remote = conn.muxed_conn.get_remote_address()
        if remote is not None:
            self._acceptor.half_open.pop(remote, None)
        self._began[conn] = trio.current_time()
        objection = self._owner.get_objection(get_peer(conn))
        if objection is not None:
            logger.info("connection with %s closed: %s", get_peer(conn), objection)
            self._start_closing(conn)

    async def run(self, nursery: trio.Nursery) -> None:
        """Watch until cancelled; connections are closed by tasks in `nursery`."""
        self._nursery = nursery
        while True:
            now = trio.current_time()
            live = self._list_live()
            self._began = {conn: self._began.get(conn, now) for conn in live}
            for conn in live:
                if has_too_much_unread(conn):
                    self._owner.on_fault(get_peer(conn), "it sends more than its window allows")
                    self._start_closing(conn)
                elif now - self._began[conn] > LINKLESS_S and not self._owner.is_used(conn):
                    self._start_closing(conn)
            await trio.sleep(WATCH_S)

    def _start_closing(self, conn: Connection) -> None:
        # Not awaited: the library calls `judge` from inside what a close would wait for.
        if self._nursery is not None:
            self._nursery.start_soon(force_close, conn)
