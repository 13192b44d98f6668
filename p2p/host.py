"""The network over py-libp2p: the part of it that the node holds in its hand.

Owns the life of the host, the peers to dial, scores and bans, and the ticking of heartbeats. Never
touches py-libp2p itself (`p2p.libp2p_host`), never does a handshake (`p2p.linking`), never looks
into a body.
"""

import logging
from typing import Final

import trio

from p2p.address import parse_address
from p2p.admission import Admission
from p2p.frames import build_heartbeat, build_message
from p2p.identity import get_peer_id
from p2p.keeping import TURN_S, AddressBook, Source
from p2p.libp2p_host import Host
from p2p.linking import Linker
from p2p.network import (
    ANNOUNCEMENT_BYTES_MAX,
    ANNOUNCEMENTS_QUEUED_MAX,
    BODY_BYTES_MAX,
    STATUS_BYTES_MAX,
    NetworkConfig,
    NetworkHandler,
    PeerGone,
    PeerId,
    PeerInfo,
    Priority,
    TaskStatus,
)
from p2p.scoring import PENALTY_MALFORMED, ScoreBook
from p2p.wire import HostOwner

logger = logging.getLogger("p2p")

TICK_S: Final = 0.05
"""Seconds between two looks at whom to dial."""

STOP_S: Final = 1.5
"""Seconds that all links together have for their goodbyes."""


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
        self._scores = ScoreBook(config.ban_s)
        self._book = AddressBook(self._peer_id)
        for text in config.bootstrap_peers:
            self._book.add(text, Source.BOOTSTRAP, 0.0)
        for text in config.persistent_peers:
            self._book.add(text, Source.PERSISTENT, 0.0)
        self._admission = Admission(config, self._peer_id, self._scores)
        self._status_due = trio.Event()
        self._announcements, self._announced = trio.open_memory_channel[tuple[PeerId, bytes]](
            ANNOUNCEMENTS_QUEUED_MAX
        )
        self._linker = Linker(
            config,
            self._peer_id,
            self._book,
            self._admission,
            report=self.report,
            on_linked=self.send_status_now,
        )
        self._host = Host(
            config.key_seed,
            (self._linker.link_protocol, self._linker.request_protocol),
            f"/quorate/{config.chain_id}/announce/1" if config.gossip else None,
            HostOwner(
                take_stream=self._linker.take_stream,
                get_objection=self._get_connection_objection,
                is_used=self._linker.is_used,
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
        self._addresses = (f"{self._host.get_address().location}/p2p/{self._peer_id}",)
        try:
            async with trio.open_nursery() as outer:
                outer.start_soon(self._stop_when_cancelled)
                # Shielded: sockets are closed in order before anything is cancelled.
                with trio.CancelScope(shield=True):
                    await self._run(handler, task_status)
                outer.cancel_scope.cancel()
        finally:
            self.stop()
            self._addresses = ()

    def stop(self) -> None:
        """Stop in order; see `p2p.network.Network.stop`."""
        self._linker.stopping.set()

    def peers(self) -> tuple[PeerInfo, ...]:
        """Linked peers, sorted by peer id."""
        now = trio.current_time()
        return tuple(
            linked.describe(self._scores.get_score(peer, now))
            for peer, linked in sorted(self._linker.linked.items())
        )

    def send(self, peer: PeerId, priority: Priority, body: bytes) -> bool:
        """Queue a message; see `p2p.network.Network.send`."""
        _check_body(body)
        linked = self._linker.linked.get(peer)
        return linked is not None and linked.link.send(priority, build_message(priority, body))

    def broadcast(
        self, priority: Priority, body: bytes, exclude: frozenset[PeerId] = frozenset()
    ) -> int:
        """Queue a message to all but `exclude`; see `p2p.network.Network.broadcast`."""
        _check_body(body)
        frame = build_message(priority, body)
        return sum(
            linked.link.send(priority, frame)
            for peer, linked in self._linker.linked.items()
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
        linked = self._linker.linked.get(peer)
        if linked is None:
            raise PeerGone(f"no link with {peer}")
        return await linked.asker.request(
            body, response_bytes_max=response_bytes_max, timeout_s=timeout_s
        )

    def report(self, peer: PeerId, penalty: int, reason: str) -> None:
        """Lower a score; see `p2p.network.Network.report`."""
        if peer in self._config.unconditional_peers:
            return
        if self._scores.is_banned(peer, trio.current_time()):
            # What it had sent before is still looked at; one line about its ban is enough.
            return
        logger.info("peer %s: %s (penalty %d)", peer, reason, penalty)
        if self._scores.lower(peer, penalty, trio.current_time()):
            logger.warning("peer %s is banned for %s s: %s", peer, self._config.ban_s, reason)
            linked = self._linker.linked.get(peer)
            if linked is not None:
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
            self.stop()

    async def _run(self, handler: NetworkHandler, task_status: TaskStatus) -> None:
        ready, closing = trio.Event(), trio.Event()
        address = parse_address(self._addresses[0]) if self._external is None else self._external
        async with trio.open_nursery() as host_nursery:
            host_nursery.start_soon(self._host.run, ready, closing)
            await ready.wait()
            try:
                async with trio.open_nursery() as nursery:
                    told_address = f"{address.location}/p2p/{self._peer_id}"
                    self._linker.start(self._host, handler, nursery, told_address)
                    nursery.start_soon(self._beat, handler)
                    nursery.start_soon(self._keep_peers, nursery)
                    nursery.start_soon(self._hand_announcements, handler)
                    task_status.started()
                    await self._linker.stopping.wait()
                    await self._linker.end_all(STOP_S)
                    nursery.cancel_scope.cancel()
            finally:
                self.stop()
                closing.set()

    async def _beat(self, handler: NetworkHandler) -> None:
        """Send heartbeats, and close the links of peers that are silent."""
        nonce = 0
        due = trio.current_time()
        while True:
            with trio.move_on_at(due):
                await self._status_due.wait()
            self._status_due = trio.Event()
            now = trio.current_time()
            self._forgive(now - due, now)
            due = now + self._config.heartbeat_s
            nonce += 1
            status = handler.get_status()
            if len(status) > STATUS_BYTES_MAX:
                raise ValueError(f"a status has at most {STATUS_BYTES_MAX} bytes")
            frame = build_heartbeat(nonce, status)
            for link in self._linker.list_links():
                link.beat(nonce, frame, now)
                if now - link.heard_at > self._config.peer_timeout_s:
                    logger.info("peer %s is silent", link.peer)
                    link.end()

    def _forgive(self, late_s: float, now: float) -> None:
        """Do not take our own delay for the peers': what they sent still waits to be read."""
        if late_s > self._config.heartbeat_s:
            for link in self._linker.list_links():
                link.heard_at = min(now, link.heard_at + late_s)

    async def _keep_peers(self, nursery: trio.Nursery) -> None:
        while True:
            now = trio.current_time()
            self._linker.ask_addresses_when_due(now)
            for peer, address in self._book.take_due(set(self._linker.linked), now):
                if self._linker.get_link_objection(peer, address.host) is None:
                    nursery.start_soon(self._linker.dial, peer, address)
                else:
                    self._book.record_success(peer, now + TURN_S)
            await trio.sleep(TICK_S)

    async def _hand_announcements(self, handler: NetworkHandler) -> None:
        async for peer, body in self._announced:
            handler.on_announcement(peer, body)

    def _get_connection_objection(self, peer: PeerId) -> str | None:
        n_connections = self._host.count_connections()
        return self._admission.get_connection_objection(peer, n_connections, trio.current_time())

    def _may_forward(self, peer: PeerId) -> bool:
        return peer in self._linker.linked and self._admission.may_forward(
            peer, trio.current_time()
        )

    def _take_announcement(self, peer: PeerId, body: bytes) -> None:
        try:
            self._announcements.send_nowait((peer, body))
        except trio.WouldBlock:
            logger.debug("an announcement was dropped: the node is busy")

    def _on_malformed(self, peer: PeerId, reason: str) -> None:
        self.report(peer, PENALTY_MALFORMED, reason)


def _check_body(body: bytes) -> None:
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"a message has at most {BODY_BYTES_MAX} bytes")
