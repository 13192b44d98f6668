"""The network over py-libp2p: who is linked, who may be, and what goes where.

Owns the links, the requests beside them, the peers to dial, scores and bans, and the ticking of
heartbeats. Never touches py-libp2p itself (`p2p.libp2p_host`), never looks into a body.

A peer has one link. Its connection carries the stream of the link, up to one stream of requests in
each direction, and the streams of gossipsub.
"""

import logging
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from p2p.address import Address, parse_address
from p2p.frames import (
    ADDRESSES_TOLD_MAX,
    FrameError,
    Hello,
    Kind,
    build_addresses,
    build_frame,
    build_heartbeat,
    build_message,
)
from p2p.handshake import (
    REASON_DUPLICATE,
    HandshakeRefused,
    get_mismatch,
    is_preferred,
    receive_hello,
    send_hello,
    send_refusal,
)
from p2p.identity import get_peer_id
from p2p.keeping import LINKS_WANTED, TURN_S, AddressBook, Source, fill_in_host
from p2p.libp2p_host import Host, HostOwner
from p2p.link import Link
from p2p.network import (
    ANNOUNCEMENT_BYTES_MAX,
    ANNOUNCEMENTS_QUEUED_MAX,
    BODY_BYTES_MAX,
    PROTOCOL_VERSION,
    STATUS_BYTES_MAX,
    NetworkConfig,
    NetworkHandler,
    PeerGone,
    PeerId,
    PeerInfo,
    Priority,
    TaskStatus,
)
from p2p.pacing import Pacer
from p2p.requests import ANSWERS_HELD_MAX, Answerer, Asker
from p2p.scoring import PENALTY_MALFORMED, PENALTY_UNSOLICITED, ScoreBook
from p2p.wire import Wire, WireClosed

logger = logging.getLogger("p2p")

TICK_S: Final = 0.05
"""Seconds between two looks at whom to dial."""

REFUSED_S: Final = 0.5
"""Seconds that a refused peer has to read why, before its connection is closed."""

LINK_WAIT_S: Final = 2.0
"""Seconds that a stream of requests may be ahead of its link."""

STOP_S: Final = 1.5
"""Seconds that all links together have for their goodbyes."""

ASK_ADDRESSES_S: Final = 30.0
"""Seconds between two questions for addresses, while there are few links."""

TELL_ADDRESSES_S: Final = 10.0
"""A peer that asks for addresses again within as many seconds is scored down."""

CONNECTIONS_SPARE: Final = 64
"""Connections beyond ``peers_max`` that may be in their handshake."""

ANNOUNCEMENTS_PER_S_MAX: Final = 200
"""Announcements taken per second from all peers; the rest is dropped."""

ANNOUNCEMENTS_PER_S_AND_PEER_MAX: Final = 50
"""Announcements taken per second from one peer; the rest is dropped."""


@dataclass(slots=True, eq=False)
class _Peer:
    """A linked peer: its link and both streams of requests."""

    link: Link
    asker: Asker
    answerer: Answerer | None = None


class LibP2PNetwork:
    """A `p2p.network.Network` over py-libp2p.

    Parameters
    ----------
    config
        Everything it must know.

    Raises
    ------
    ValueError
        If an address in `config` cannot be read.
    """

    def __init__(self, config: NetworkConfig) -> None:
        self._config = config
        self._peer_id = get_peer_id(config.key_seed)
        self._listen = parse_address(config.listen)
        self._external = parse_address(config.external_address) if config.external_address else None
        self._addresses: tuple[str, ...] = ()
        self._instance = secrets.token_bytes(16)
        self._peers: dict[PeerId, _Peer] = {}
        self._opening: set[PeerId] = set()
        self._scores = ScoreBook(config.ban_s)
        self._book = AddressBook(self._peer_id)
        for text in config.bootstrap_peers:
            self._book.add(text, Source.BOOTSTRAP, 0.0)
        for text in config.persistent_peers:
            self._book.add(text, Source.PERSISTENT, 0.0)
        self._pacer = Pacer(config.bulk_bytes_per_s_max)
        self._answers_held = trio.CapacityLimiter(ANSWERS_HELD_MAX)
        self._status_due = trio.Event()
        self._stopping = trio.Event()
        self._forwarded: Counter[PeerId] = Counter()
        self._announcements, self._announced = trio.open_memory_channel[tuple[PeerId, bytes]](
            ANNOUNCEMENTS_QUEUED_MAX
        )
        self._nursery: trio.Nursery | None = None
        self._handler: NetworkHandler | None = None
        self._link_protocol = f"/quorate/{config.chain_id}/link/1"
        self._request_protocol = f"/quorate/{config.chain_id}/request/1"
        self._host = Host(
            config.key_seed,
            (self._link_protocol, self._request_protocol),
            f"/quorate/{config.chain_id}/announce/1" if config.gossip else None,
            HostOwner(
                take_stream=self._take_stream,
                get_objection=self._get_connection_objection,
                is_used=self._is_used,
                may_forward=self._may_forward,
                take_announcement=self._take_announcement,
                on_fault=self._on_malformed,
            ),
        )

    @property
    def peer_id(self) -> PeerId:
        """Our own peer id."""
        return self._peer_id

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """Our addresses with ``/p2p/<id>``; empty before `run` has started."""
        return self._addresses

    async def run(
        self,
        handler: NetworkHandler,
        *,
        task_status: TaskStatus = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until cancelled or `stop`; see `p2p.network.Network.run`."""
        await self._host.bind(self._listen)
        bound = self._host.get_address()
        self._addresses = (f"{bound.location}/p2p/{self._peer_id}",)
        self._handler = handler
        try:
            async with trio.open_nursery() as outer:
                outer.start_soon(self._stop_when_cancelled)
                # Shielded: sockets are closed in order before anything is cancelled.
                with trio.CancelScope(shield=True):
                    await self._run(task_status)
                outer.cancel_scope.cancel()
        finally:
            self._stopping.set()
            self._nursery = None
            self._addresses = ()

    def stop(self) -> None:
        """Stop in order; see `p2p.network.Network.stop`."""
        self._stopping.set()

    def peers(self) -> tuple[PeerInfo, ...]:
        """Linked peers, sorted by peer id."""
        now = trio.current_time()
        return tuple(self._describe(peer, now) for _, peer in sorted(self._peers.items()))

    def send(self, peer: PeerId, priority: Priority, body: bytes) -> bool:
        """Queue a message; see `p2p.network.Network.send`."""
        _check_body(body)
        linked = self._peers.get(peer)
        return linked is not None and linked.link.send(priority, build_message(priority, body))

    def broadcast(
        self, priority: Priority, body: bytes, exclude: frozenset[PeerId] = frozenset()
    ) -> int:
        """Queue a message to all but `exclude`; see `p2p.network.Network.broadcast`."""
        _check_body(body)
        frame = build_message(priority, body)
        return sum(
            linked.link.send(priority, frame)
            for peer, linked in self._peers.items()
            if peer not in exclude
        )

    def announce(self, body: bytes) -> None:
        """Spread an announcement; see `p2p.network.Network.announce`."""
        if len(body) > ANNOUNCEMENT_BYTES_MAX:
            raise ValueError(f"an announcement has at most {ANNOUNCEMENT_BYTES_MAX} bytes")
        if self._config.gossip:
            self._host.announce(body)

    async def request(
        self, peer: PeerId, body: bytes, *, response_bytes_max: int, timeout_s: float
    ) -> bytes:
        """Ask a peer; see `p2p.network.Network.request`."""
        linked = self._peers.get(peer)
        if linked is None:
            raise PeerGone(f"no link with {peer}")
        return await linked.asker.request(
            body, response_bytes_max=response_bytes_max, timeout_s=timeout_s
        )

    def report(self, peer: PeerId, penalty: int, reason: str) -> None:
        """Lower a score; see `p2p.network.Network.report`."""
        if peer in self._config.unconditional_peers:
            return
        logger.info("peer %s: %s (penalty %d)", peer, reason, penalty)
        if self._scores.lower(peer, penalty, trio.current_time()):
            logger.warning("peer %s is banned for %s s: %s", peer, self._config.ban_s, reason)
            linked = self._peers.get(peer)
            if linked is not None:
                linked.link.outbox.clear()
                linked.link.end()

    def dial(self, address: str) -> None:
        """Add a persistent peer; see `p2p.network.Network.dial`."""
        self._book.add(address, Source.PERSISTENT, 0.0)

    def send_status_now(self) -> None:
        """Send a heartbeat soon; several calls are one."""
        self._status_due.set()

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._stopping.set()

    async def _run(self, task_status: TaskStatus) -> None:
        ready, closing = trio.Event(), trio.Event()
        async with trio.open_nursery() as host_nursery:
            host_nursery.start_soon(self._host.run, ready, closing)
            await ready.wait()
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._beat)
                    nursery.start_soon(self._keep_peers)
                    nursery.start_soon(self._hand_announcements)
                    task_status.started()
                    await self._stopping.wait()
                    await self._end_links()
                    nursery.cancel_scope.cancel()
            finally:
                self._stopping.set()
                closing.set()

    async def _end_links(self) -> None:
        for linked in list(self._peers.values()):
            linked.link.end("the node stops")
        with trio.move_on_after(STOP_S):
            while self._peers:
                await trio.sleep(TICK_S / 5)

    async def _beat(self) -> None:
        """Send heartbeats, and close the links of peers that are silent."""
        nonce = 0
        due = trio.current_time()
        while True:
            with trio.move_on_at(due):
                await self._status_due.wait()
            self._status_due = trio.Event()
            now = trio.current_time()
            # When this process itself was held up, the peers' bytes still wait to be read.
            self._forgive(max(0.0, now - due), now)
            due = now + self._config.heartbeat_s
            nonce += 1
            status = self._get_handler().get_status()
            if len(status) > STATUS_BYTES_MAX:
                raise ValueError(f"a status has at most {STATUS_BYTES_MAX} bytes")
            frame = build_heartbeat(nonce, status)
            for linked in list(self._peers.values()):
                linked.link.beat(nonce, frame, now)
                if now - linked.link.heard_at > self._config.peer_timeout_s:
                    logger.info("peer %s is silent", linked.link.peer)
                    linked.link.end()

    def _forgive(self, late_s: float, now: float) -> None:
        if late_s > self._config.heartbeat_s:
            for linked in self._peers.values():
                linked.link.heard_at = min(now, linked.link.heard_at + late_s)

    async def _keep_peers(self) -> None:
        ask_at = forget_at = trio.current_time()
        while True:
            now = trio.current_time()
            if now >= forget_at:
                self._forwarded.clear()
                forget_at = now + 1.0
            if now >= ask_at:
                ask_at = now + ASK_ADDRESSES_S
                for linked in self._peers.values():
                    self._ask_addresses(linked.link)
            for peer, address in self._book.take_due(set(self._peers), now):
                objection = self._get_link_objection(peer, address.host)
                if objection is None:
                    self._get_nursery().start_soon(self._dial, peer, address)
                else:
                    self._book.record_success(peer, now + TURN_S)
            await trio.sleep(TICK_S)

    async def _hand_announcements(self) -> None:
        async for peer, body in self._announced:
            self._get_handler().on_announcement(peer, body)

    async def _dial(self, peer: PeerId, address: Address) -> None:
        """Try once to link with a peer."""
        connection: object = None
        try:
            connection = await self._host.dial(peer, address)
            wire = await self._host.open_wire(connection, self._link_protocol)
            await self._open_link(wire)
            self._book.record_success(peer, trio.current_time() + TURN_S)
        except (WireClosed, HandshakeRefused, trio.TooSlowError) as error:
            level = logging.INFO if isinstance(error, HandshakeRefused) else logging.DEBUG
            logger.log(level, "no link with %s: %s", peer, error)
            self._record_failure(peer, is_duplicate=str(error) == REASON_DUPLICATE)
        except FrameError as error:
            self._on_malformed(peer, str(error))
            self._record_failure(peer, is_duplicate=False)
        if connection is not None and not self._is_used(connection):
            await self._host.close_connection(connection)

    def _record_failure(self, peer: PeerId, *, is_duplicate: bool) -> None:
        now = trio.current_time()
        if is_duplicate or peer in self._peers:
            self._book.record_success(peer, now + TURN_S)
        else:
            self._book.record_failure(peer, now)

    async def _open_link(self, wire: Wire) -> None:
        """Do our side of the handshake of a link that we open."""
        if wire.peer in self._peers:
            raise HandshakeRefused(REASON_DUPLICATE)
        self._opening.add(wire.peer)
        try:
            await send_hello(wire, self._build_hello())
            hello = await receive_hello(wire)
        finally:
            self._opening.discard(wire.peer)
        objection = self._get_hello_objection(wire, hello, opener=self._peer_id)
        if objection is not None:
            raise HandshakeRefused(objection)
        self._adopt(wire, hello, outbound=True)

    async def _take_stream(self, protocol: str, wire: Wire) -> None:
        """Take a stream that a peer has opened; return when it is done.

        Its task is ours, not the library's: what the node raises ends `run`.
        """
        done = trio.Event()
        nursery = self._nursery
        if nursery is None or self._stopping.is_set():
            await wire.force_close()
            return
        serve = self._accept_link if protocol == self._link_protocol else self._accept_requests
        nursery.start_soon(self._serve, serve, wire, done)
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
        if not self._is_used(wire.connection):
            await wire.force_close()

    async def _accept_requests(self, wire: Wire) -> None:
        """Serve the questions of a peer that has a link on the same connection."""
        with trio.move_on_after(LINK_WAIT_S):
            while not self._is_used(wire.connection):
                await trio.sleep(TICK_S)
        linked = self._peers.get(wire.peer)
        if linked is None or linked.link.wire.connection is not wire.connection:
            await wire.reset()
            return
        if linked.answerer is not None:
            # An honest peer opens another stream only after it has lost the first.
            linked.answerer.ended.set()
        answerer = Answerer(wire, self._get_handler(), self._pacer, self._answers_held, self.report)
        linked.answerer = answerer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_set_after, linked.link.ending, answerer.ended)
            await answerer.run()
            nursery.cancel_scope.cancel()

    def _adopt(self, wire: Wire, hello: Hello, *, outbound: bool) -> trio.Event:
        """Make a link whose handshake is done the link of its peer; its end sets the event."""
        handler = self._get_handler()
        link = Link(
            wire,
            hello,
            outbound=outbound,
            handler=handler,
            pacer=self._pacer,
            on_fault=self._on_malformed,
            on_addresses=self._on_addresses,
        )
        open_wire = partial(self._host.open_wire, wire.connection, self._request_protocol)
        asker = Asker(wire.peer, open_wire, self.report)
        replaced = self._peers.get(wire.peer)
        self._peers[wire.peer] = _Peer(link, asker)
        ended = trio.Event()
        self._get_nursery().start_soon(self._run_link, self._peers[wire.peer], ended)
        if replaced is not None:
            replaced.link.end(REASON_DUPLICATE)
            handler.on_peer_disconnected(wire.peer)
        handler.on_peer_connected(wire.peer)
        self._ask_addresses(link)
        self._status_due.set()
        return ended

    async def _run_link(self, linked: _Peer, ended: trio.Event) -> None:
        peer = linked.link.peer
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(linked.asker.run)
                await linked.link.run(self._is_used_by_another)
                nursery.cancel_scope.cancel()
        finally:
            ended.set()
            if self._peers.get(peer) is linked:
                del self._peers[peer]
                self._book.record_link_lost(peer, trio.current_time())
                self._get_handler().on_peer_disconnected(peer)

    def _get_hello_objection(self, wire: Wire, hello: Hello, opener: PeerId) -> str | None:
        """Say why no link comes of a handshake; None when it does."""
        mismatch = get_mismatch(self._config, hello)
        if mismatch is not None:
            return mismatch
        linked = self._peers.get(wire.peer)
        if linked is not None and not linked.link.ending.is_set():
            is_new_better = is_preferred(
                opener=opener,
                instance=hello.instance,
                other_opener=self._peer_id if linked.link.outbound else wire.peer,
                other_instance=linked.link.hello.instance,
            )
            return None if is_new_better else REASON_DUPLICATE
        if opener == wire.peer and wire.peer in self._opening and self._peer_id < wire.peer:
            return REASON_DUPLICATE
        return self._get_link_objection(wire.peer, wire.remote_host)

    def _get_link_objection(self, peer: PeerId, host: str) -> str | None:
        """Say why there is no room for a link; None when there is."""
        config = self._config
        objection = self._get_peer_objection(peer)
        if objection is not None or peer in config.unconditional_peers:
            return objection
        if len(self._peers) >= config.peers_max:
            return "no room for another peer"
        n_same = sum(linked.link.wire.remote_host == host for linked in self._peers.values())
        if n_same >= config.peers_per_address_max:
            return "no room for another peer of this address"
        return None

    def _get_peer_objection(self, peer: PeerId) -> str | None:
        """Say why a peer is not welcome at all; None when it is."""
        config = self._config
        if self._stopping.is_set():
            return "the node stops"
        if peer == self._peer_id:
            return "it is this node"
        if config.allowed_peers is not None and peer not in config.allowed_peers:
            return "not on the list of allowed peers"
        if peer not in config.unconditional_peers and self._scores.is_banned(
            peer, trio.current_time()
        ):
            return "banned"
        return None

    def _get_connection_objection(self, peer: PeerId, host: str) -> str | None:
        """Say why a connection is closed before its first stream; None when it stays."""
        objection = self._get_peer_objection(peer)
        if objection is not None or peer in self._config.unconditional_peers:
            return objection
        if self._host.count_connections() > self._config.peers_max + CONNECTIONS_SPARE:
            return f"no room for another connection, from {host}"
        return None

    def _is_used(self, connection: object) -> bool:
        return any(p.link.wire.connection is connection for p in self._peers.values())

    def _is_used_by_another(self, link: Link) -> bool:
        return any(
            linked.link is not link and linked.link.wire.connection is link.wire.connection
            for linked in self._peers.values()
        )

    def _build_hello(self) -> Hello:
        address = parse_address(self._addresses[0]) if self._external is None else self._external
        return Hello(
            PROTOCOL_VERSION,
            self._config.chain_id,
            self._config.genesis_hash,
            self._config.protocol_version,
            self._instance,
            f"{address.location}/p2p/{self._peer_id}",
        )

    def _ask_addresses(self, link: Link) -> None:
        if self._config.peer_exchange and len(self._peers) < LINKS_WANTED:
            link.addresses_asked = link.outbox.put_control(build_frame(Kind.ASK_ADDRESSES))

    def _on_addresses(self, link: Link, addresses: tuple[str, ...] | None) -> None:
        """Tell a peer addresses, or learn those it tells."""
        now = trio.current_time()
        if addresses is None:
            told_at = link.addresses_told_at
            if told_at is not None and now - told_at < TELL_ADDRESSES_S:
                self.report(link.peer, PENALTY_UNSOLICITED, "it asks for addresses too often")
            elif self._config.peer_exchange:
                link.addresses_told_at = now
                link.outbox.put_control(build_addresses(self._get_tellable(link.peer)))
        elif link.addresses_asked:
            link.addresses_asked = False
            self._book.learn(addresses, link.wire.remote_host, now)
        else:
            self.report(link.peer, PENALTY_UNSOLICITED, "addresses that nobody asked for")

    def _get_tellable(self, asker: PeerId) -> tuple[str, ...]:
        addresses = []
        for peer, linked in self._peers.items():
            if peer == asker or peer in self._config.private_peers:
                continue
            try:
                address = parse_address(linked.link.hello.listen)
            except ValueError:
                continue
            reached = fill_in_host(address, linked.link.wire.remote_host)
            if reached is not None and reached.peer_id == peer:
                addresses.append(str(reached))
        random.shuffle(addresses)
        return tuple(addresses[:ADDRESSES_TOLD_MAX])

    def _may_forward(self, peer: PeerId) -> bool:
        self._forwarded[peer] += 1
        return (
            peer in self._peers
            and self._forwarded[peer] <= ANNOUNCEMENTS_PER_S_AND_PEER_MAX
            and self._forwarded.total() <= ANNOUNCEMENTS_PER_S_MAX
        )

    def _take_announcement(self, peer: PeerId, body: bytes) -> None:
        try:
            self._announcements.send_nowait((peer, body))
        except trio.WouldBlock:
            logger.debug("an announcement was dropped: the node is busy")

    def _on_malformed(self, peer: PeerId, reason: str) -> None:
        self.report(peer, PENALTY_MALFORMED, reason)

    def _describe(self, linked: _Peer, now: float) -> PeerInfo:
        link, asker, answerer = linked.link, linked.asker, linked.answerer
        return PeerInfo(
            peer_id=link.peer,
            address=f"{link.wire.remote_address}/p2p/{link.peer}",
            outbound=link.outbound,
            connected_at=link.connected_at,
            bytes_sent=link.bytes_sent
            + asker.bytes_sent
            + (0 if answerer is None else answerer.bytes_sent),
            bytes_received=link.bytes_received
            + asker.bytes_received
            + (0 if answerer is None else answerer.bytes_received),
            score=self._scores.get_score(link.peer, now),
            latency_ms=link.latency_ms,
        )

    def _get_handler(self) -> NetworkHandler:
        if self._handler is None:
            raise RuntimeError("the network does not run")
        return self._handler

    def _get_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise RuntimeError("the network does not run")
        return self._nursery


def _check_body(body: bytes) -> None:
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"a message has at most {BODY_BYTES_MAX} bytes")


async def _set_after(first: trio.Event, then: trio.Event) -> None:
    await first.wait()
    then.set()
