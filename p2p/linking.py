"""Linking: how connections become links, and what hangs on a link.

Owns the links of a network from the handshake to the end, one per peer, and the requests beside
them. Never decides whom to dial (`p2p.host` asks the address book), never touches py-libp2p itself.

A peer has one link. Its connection carries the stream of the link, up to one stream of requests in
each direction, and the streams of gossipsub.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import trio

from p2p.address import Address
from p2p.admission import Admission
from p2p.exchange import Exchange
from p2p.frames import FrameError, Hello
from p2p.handshake import (
    REASON_DUPLICATE,
    HandshakeRefused,
    get_mismatch,
    is_preferred,
    receive_hello,
    send_hello,
    send_refusal,
)
from p2p.keeping import TURN_S, AddressBook
from p2p.link import Link
from p2p.network import PROTOCOL_VERSION, NetworkConfig, NetworkHandler, PeerId, PeerInfo
from p2p.pacing import Pacer
from p2p.requests import ANSWERS_HELD_MAX, Answerer, Asker
from p2p.scoring import PENALTY_MALFORMED
from p2p.wire import ProtocolUnknown, Wire, WireClosed

logger = logging.getLogger("p2p")

REFUSED_S: Final = 0.5
"""Seconds that a refused peer has to read why, before its connection is closed."""

LINK_WAIT_S: Final = 2.0
"""Seconds that a stream of requests may be ahead of its link."""

POLL_S: Final = 0.02
"""Seconds between two looks at something that is about to happen."""


class Dialer(Protocol):
    """What linking needs of the host."""

    async def dial(self, peer: PeerId, address: Address) -> object:
        """Connect with a peer; give the connection."""
        ...

    async def open_wire(self, connection: object, protocol: str) -> Wire:
        """Open a stream on a connection."""
        ...

    async def close_connection(self, connection: object) -> None:
        """Close a connection."""


@dataclass(slots=True, eq=False)
class Linked:
    """A linked peer: its link and both streams of requests."""

    link: Link
    asker: Asker
    answerer: Answerer | None = None

    def describe(self, score: int) -> PeerInfo:
        """Give what is known of the peer."""
        link = self.link
        streams: list[Link | Asker | Answerer] = [link, self.asker]
        if self.answerer is not None:
            streams.append(self.answerer)
        return PeerInfo(
            peer_id=link.peer,
            address=f"{link.wire.remote_address}/p2p/{link.peer}",
            outbound=link.outbound,
            connected_at=link.connected_at,
            bytes_sent=sum(stream.bytes_sent for stream in streams),
            bytes_received=sum(stream.bytes_received for stream in streams),
            score=score,
            latency_ms=link.latency_ms,
        )


class Linker:
    """The links of a network.

    Parameters
    ----------
    config
        What a peer must have in common with us.
    own_id
        Our peer id.
    book
        Is told how dials went.
    admission
        Who is let in.
    report
        Called with peer, penalty and reason when a peer misbehaves.
    on_linked
        Called when there is a new link.

    Attributes
    ----------
    linked
        The linked peers.
    stopping
        Set when the network stops; no link begins after that.
    """

    def __init__(
        self,
        config: NetworkConfig,
        own_id: PeerId,
        book: AddressBook,
        admission: Admission,
        report: Callable[[PeerId, int, str], None],
        on_linked: Callable[[], None],
    ) -> None:
        self.linked: dict[PeerId, Linked] = {}
        self.stopping = trio.Event()
        self.link_protocol = f"/quorate/{config.chain_id}/link/1"
        self.request_protocol = f"/quorate/{config.chain_id}/request/1"
        self._config = config
        self._own_id = own_id
        self._book = book
        self._admission = admission
        self._report = report
        self._on_linked = on_linked
        self._exchange = Exchange(config, book, report)
        self._pacer = Pacer(config.bulk_bytes_per_s_max)
        self._answers_held = trio.CapacityLimiter(ANSWERS_HELD_MAX)
        self._opening: set[PeerId] = set()
        self._instance = secrets.token_bytes(16)
        self._running: tuple[Dialer, NetworkHandler, trio.Nursery] | None = None
        self._told_address = ""

    def start(
        self, dialer: Dialer, handler: NetworkHandler, nursery: trio.Nursery, told_address: str
    ) -> None:
        """Begin to link; links run in `nursery`, peers are told to dial `told_address`."""
        self._running = dialer, handler, nursery
        self._told_address = told_address

    def list_links(self) -> list[Link]:
        """List the links, those that are ending too."""
        return [linked.link for linked in self.linked.values()]

    def is_used(self, connection: object) -> bool:
        """Tell whether a link lives on `connection`."""
        return any(link.wire.connection is connection for link in self.list_links())

    def ask_addresses_when_due(self, now: float) -> None:
        """Ask the peers for addresses, now and then."""
        self._exchange.ask_all_when_due(self.list_links(), now)

    async def end_all(self, within_s: float) -> None:
        """End every link in order, and wait for that."""
        for link in self.list_links():
            link.end("the node stops")
        with trio.move_on_after(within_s):
            while self.linked:  # noqa: ASYNC110 - a moment, once in a run.
                await trio.sleep(POLL_S)

    async def dial(self, peer: PeerId, address: Address) -> None:
        """Try once to link with a peer."""
        dialer, _, _ = self._get_running()
        connection: object = None
        try:
            connection = await dialer.dial(peer, address)
            wire = await dialer.open_wire(connection, self.link_protocol)
            await self._open_link(wire)
            self._book.record_success(peer, trio.current_time() + TURN_S)
        except ProtocolUnknown as error:
            # Most often one of the two has the genesis of another chain, so its operator is told.
            logger.warning("no link with %s: %s; is it a node of this chain?", peer, error)
            self._record_failure(peer, is_duplicate=False)
        except (WireClosed, HandshakeRefused, trio.TooSlowError) as error:
            level = logging.INFO if isinstance(error, HandshakeRefused) else logging.DEBUG
            logger.log(level, "no link with %s: %s", peer, error)
            self._record_failure(peer, is_duplicate=str(error) == REASON_DUPLICATE)
        except FrameError as error:
            self._on_malformed(peer, str(error))
            self._record_failure(peer, is_duplicate=False)
        if connection is not None and not self.is_used(connection):
            await dialer.close_connection(connection)

    def _record_failure(self, peer: PeerId, *, is_duplicate: bool) -> None:
        now = trio.current_time()
        if is_duplicate or peer in self.linked:
            self._book.record_success(peer, now + TURN_S)
        else:
            self._book.record_failure(peer, now)

    async def _open_link(self, wire: Wire) -> None:
        """Do our side of the handshake of a link that we open."""
        if wire.peer in self.linked:
            raise HandshakeRefused(REASON_DUPLICATE)
        self._opening.add(wire.peer)
        try:
            await send_hello(wire, self._build_hello())
            hello = await receive_hello(wire)
        finally:
            self._opening.discard(wire.peer)
        objection = self._get_hello_objection(wire, hello, opener=self._own_id)
        if objection is not None:
            raise HandshakeRefused(objection)
        self._adopt(wire, hello, outbound=True)

    async def take_stream(self, protocol: str, wire: Wire) -> None:
        """Take a stream that a peer has opened; return when it is done.

        Its task is ours, not the library's: what the node raises ends `run`.
        """
        done = trio.Event()
        if self._running is None or self.stopping.is_set():
            await wire.force_close()
            return
        serve = self._accept_link if protocol == self.link_protocol else self._accept_requests
        self._running[2].start_soon(self._serve, serve, wire, done)
        await done.wait()

    async def _serve(
        self, serve: Callable[[Wire], Awaitable[None]], wire: Wire, done: trio.Event
    ) -> None:
        try:
            await serve(wire)
        finally:
            done.set()

    async def _accept_link(self, wire: Wire) -> None:
        """Do our side of the handshake of a link that a peer opens, and keep the link."""
        try:
            hello = await receive_hello(wire)
            objection = self._get_hello_objection(wire, hello, opener=wire.peer)
            if objection is None:
                await send_hello(wire, self._build_hello())
                objection = self._get_hello_objection(wire, hello, opener=wire.peer)
            if objection is None:
                await self._adopt(wire, hello, outbound=False).wait()
                return
            logger.info("peer %s refused: %s", wire.peer, objection)
            await send_refusal(wire, objection)
            with trio.move_on_after(REFUSED_S):
                await wire.read(1)
        except FrameError as error:
            self._on_malformed(wire.peer, str(error))
        except (WireClosed, HandshakeRefused, trio.TooSlowError) as error:
            logger.debug("no link with %s: %s", wire.peer, error)
        if not self.is_used(wire.connection):
            await wire.force_close()

    async def _accept_requests(self, wire: Wire) -> None:
        """Serve the questions of a peer that has a link on the same connection."""
        with trio.move_on_after(LINK_WAIT_S):
            while not self.is_used(wire.connection):  # noqa: ASYNC110 - rare and short.
                await trio.sleep(POLL_S)
        linked = self.linked.get(wire.peer)
        if linked is None or linked.link.wire.connection is not wire.connection:
            await wire.reset()
            return
        _, handler, _ = self._get_running()
        if linked.answerer is not None:
            # An honest peer opens another stream only after it has lost the first.
            linked.answerer.ended.set()
        answerer = Answerer(wire, handler, self._pacer, self._answers_held, self._report)
        linked.answerer = answerer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_set_after, linked.link.ending, answerer.ended)
            await answerer.run()
            nursery.cancel_scope.cancel()

    def _adopt(self, wire: Wire, hello: Hello, *, outbound: bool) -> trio.Event:
        """Make a link whose handshake is done the link of its peer; its end sets the event."""
        dialer, handler, nursery = self._get_running()
        link = Link(
            wire,
            hello,
            outbound=outbound,
            handler=handler,
            pacer=self._pacer,
            on_fault=self._on_malformed,
            on_addresses=self._take_addresses,
        )
        open_wire = partial(dialer.open_wire, wire.connection, self.request_protocol)
        asker = Asker(wire.peer, open_wire, self._report)
        replaced = self.linked.get(wire.peer)
        self.linked[wire.peer] = Linked(link, asker)
        ended = trio.Event()
        nursery.start_soon(self._run_link, self.linked[wire.peer], ended)
        if replaced is not None:
            replaced.link.end(REASON_DUPLICATE)
            handler.on_peer_disconnected(wire.peer)
        handler.on_peer_connected(wire.peer)
        self._exchange.ask(link, len(self.linked))
        self._on_linked()
        return ended

    async def _run_link(self, linked: Linked, ended: trio.Event) -> None:
        _, handler, _ = self._get_running()
        peer = linked.link.peer
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(linked.asker.run)
                await linked.link.run(self._is_used_by_another)
                nursery.cancel_scope.cancel()
        finally:
            ended.set()
            if self.linked.get(peer) is linked:
                del self.linked[peer]
                self._book.record_link_lost(peer, trio.current_time())
                handler.on_peer_disconnected(peer)

    def _get_hello_objection(self, wire: Wire, hello: Hello, opener: PeerId) -> str | None:
        """Say why no link comes of a handshake; None when it does."""
        mismatch = get_mismatch(self._config, hello)
        if mismatch is not None:
            return mismatch
        linked = self.linked.get(wire.peer)
        if linked is not None and not linked.link.ending.is_set():
            is_new_better = is_preferred(
                opener=opener,
                instance=hello.instance,
                other_opener=self._own_id if linked.link.outbound else wire.peer,
                other_instance=linked.link.hello.instance,
            )
            return None if is_new_better else REASON_DUPLICATE
        if opener == wire.peer and wire.peer in self._opening and self._own_id < wire.peer:
            return REASON_DUPLICATE
        return self.get_link_objection(wire.peer, wire.remote_host)

    def get_link_objection(self, peer: PeerId, host: str) -> str | None:
        """Say why a peer with that IP address gets no link; None when it may."""
        if self.stopping.is_set():
            return "the node stops"
        hosts = [link.wire.remote_host for link in self.list_links()]
        return self._admission.get_link_objection(peer, host, hosts, trio.current_time())

    def _is_used_by_another(self, link: Link) -> bool:
        return any(
            linked.link is not link and linked.link.wire.connection is link.wire.connection
            for linked in self.linked.values()
        )

    def _build_hello(self) -> Hello:
        return Hello(
            PROTOCOL_VERSION,
            self._config.chain_id,
            self._config.genesis_hash,
            self._config.protocol_version,
            self._instance,
            self._told_address,
        )

    def _take_addresses(self, link: Link, addresses: tuple[str, ...] | None) -> None:
        if addresses is None:
            self._exchange.tell(link, self.list_links(), trio.current_time())
        else:
            self._exchange.learn(link, addresses, trio.current_time())

    def _on_malformed(self, peer: PeerId, reason: str) -> None:
        self._report(peer, PENALTY_MALFORMED, reason)

    def _get_running(self) -> tuple[Dialer, NetworkHandler, trio.Nursery]:
        if self._running is None:
            raise RuntimeError("the network does not run")
        return self._running


async def _set_after(first: trio.Event, then: trio.Event) -> None:
    await first.wait()
    then.set()
