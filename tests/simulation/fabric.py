"""The network between simulated nodes: delay, loss, duplication, partitions.

Owns which message arrives where and when, all drawn from one seed. A `SimNetwork` is what a node
sees of it: a `p2p.network.Network` without sockets. What a byzantine node sends instead of what
it should (`Deceiver`), and what a schedule holds back (`Director`), others say.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from p2p.network import (
    BODY_BYTES_MAX,
    STATUS_BYTES_MAX,
    NetworkHandler,
    PeerGone,
    PeerId,
    PeerInfo,
    Priority,
    RequestRefused,
    RequestRejected,
    RequestTimedOut,
    RequestTooLarge,
    TaskStatus,
)
from tests.simulation import virtual_trio

HEARTBEAT_S = 0.25


class Deceiver(Protocol):
    """What a byzantine node says instead of what its honest program would."""

    def send(self, peer: PeerId, priority: Priority, body: bytes) -> list[bytes]:
        """Return what a peer gets instead of one message."""
        ...

    def tell_status(self, peer: PeerId, body: bytes) -> tuple[bytes | None, list[bytes]]:
        """Return what a peer gets instead of a status, and what else it gets beside it."""
        ...

    def answer(
        self, peer: PeerId, request: bytes, answer: bytes | Exception
    ) -> bytes | Exception | None:
        """Return what a peer gets instead of an answer; None is silence."""
        ...


class Director(Protocol):
    """A schedule that holds back what it chooses, by what is in it."""

    def passes(self, sender: PeerId, receiver: PeerId) -> bool:
        """Tell whether anything may pass."""
        ...

    def edit(self, sender: PeerId, receiver: PeerId, body: bytes) -> bytes | None:
        """Return what is to pass of a consensus message."""
        ...


@dataclass(eq=False)
class Conditions:
    """How bad the network is at the moment."""

    delay_s: float = 0.002
    jitter_s: float = 0.004
    loss: float = 0.0
    duplication: float = 0.0


@dataclass(eq=False)
class Fabric:
    """All simulated networks and what lies between them."""

    random: random.Random
    conditions: Conditions = field(default_factory=Conditions)
    networks: dict[PeerId, "SimNetwork"] = field(default_factory=dict)
    cut: set[tuple[PeerId, PeerId]] = field(default_factory=set)
    cables: frozenset[frozenset[PeerId]] | None = None
    """The pairs that ever link; with None, all do."""
    director: Director | None = None
    muted: set[PeerId] = field(default_factory=set)
    """Of whom nothing is heard any more, for good."""
    messages: int = 0
    trace: list[str] = field(default_factory=list)

    def is_open(self, sender: PeerId, receiver: PeerId) -> bool:
        """Tell whether anything of `sender` can reach `receiver`."""
        if sender in self.muted or (sender, receiver) in self.cut:
            return False
        return self.director is None or self.director.passes(sender, receiver)

    def has_cable(self, one: PeerId, other: PeerId) -> bool:
        """Tell whether two nodes ever link."""
        return self.cables is None or frozenset((one, other)) in self.cables

    def carry(self, sender: PeerId, receiver: PeerId, deliver: Callable[[], None]) -> None:
        """Deliver something once, twice or never."""
        self.messages += 1
        if not self.is_open(sender, receiver) or self.random.random() < self.conditions.loss:
            return
        copies = 2 if self.random.random() < self.conditions.duplication else 1
        engine = virtual_trio.scheduler()
        for _ in range(copies):
            delay = self.conditions.delay_s + self.random.expovariate(1) * self.conditions.jitter_s
            engine.at(engine.now + delay, deliver)

    def link_all(self, network: "SimNetwork") -> None:
        """Link a node that has started with all that run."""
        for other in list(self.networks.values()):
            if other is not network and self.has_cable(network.peer_id, other.peer_id):
                network.connect(other)
                other.connect(network)

    def unlink_all(self, network: "SimNetwork") -> None:
        """Take note that a node is gone."""
        for other in list(self.networks.values()):
            other.disconnect(network.peer_id)


class SimNetwork:
    """What a node sees of the fabric."""

    def __init__(self, fabric: Fabric, peer_id: PeerId) -> None:
        self._fabric = fabric
        self._peer_id = peer_id
        self._handler: NetworkHandler | None = None
        self._nursery: trio.Nursery | None = None
        self._links: dict[PeerId, None] = {}
        self.deceiver: Deceiver | None = None
        self.reports: list[tuple[PeerId, int, str]] = []

    @property
    def peer_id(self) -> PeerId:
        """Who this is."""
        return self._peer_id

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """Nowhere in particular."""
        return ()

    async def run(
        self, handler: NetworkHandler, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Exchange messages until cancelled."""
        self._handler = handler
        self._fabric.networks[self._peer_id] = self
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._fabric.link_all(self)
                nursery.start_soon(self._beat)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._handler = self._nursery = None
            del self._fabric.networks[self._peer_id]
            self._fabric.unlink_all(self)

    def stop(self) -> None:
        """Nothing to say goodbye to."""

    def peers(self) -> tuple[PeerInfo, ...]:
        """Everybody linked."""
        return tuple(PeerInfo(p, "", True, 0.0, 0, 0, 100, None) for p in self._links)

    def connect(self, other: "SimNetwork") -> None:
        """Link with another node."""
        if other.peer_id not in self._links and self._handler is not None:
            self._links[other.peer_id] = None
            self._handler.on_peer_connected(other.peer_id)

    def disconnect(self, peer: PeerId) -> None:
        """Lose a link."""
        if peer in self._links:
            del self._links[peer]
            if self._handler is not None:
                self._handler.on_peer_disconnected(peer)

    def send(self, peer: PeerId, priority: Priority, body: bytes) -> bool:
        """Send a message, or what a byzantine node sends instead."""
        if peer not in self._links:
            return False
        bodies = [body] if self.deceiver is None else self.deceiver.send(peer, priority, body)
        for each in bodies:
            kept = self._edit(peer, priority, each)
            if kept is None:
                continue

            def deliver(kept: bytes = kept) -> None:
                self._deliver(peer, priority, kept)

            self._fabric.carry(self._peer_id, peer, deliver)
        return True

    def _edit(self, peer: PeerId, priority: Priority, body: bytes) -> bytes | None:
        director = self._fabric.director
        kept: bytes | None = body
        if director is not None and priority is Priority.CONSENSUS:
            kept = director.edit(self._peer_id, peer, body)
        # No link carries a longer frame, whoever sends it.
        return kept if kept is not None and len(kept) <= BODY_BYTES_MAX else None

    def broadcast(
        self, priority: Priority, body: bytes, exclude: frozenset[PeerId] = frozenset()
    ) -> int:
        """Send to everybody linked."""
        return sum(
            self.send(peer, priority, body) for peer in list(self._links) if peer not in exclude
        )

    def announce(self, body: bytes) -> None:
        """Gossip is lossy anyway: links alone must do."""

    async def request(
        self, peer: PeerId, body: bytes, *, response_bytes_max: int, timeout_s: float
    ) -> bytes:
        """Ask a peer; the answer may be late or lost."""
        if peer not in self._links:
            raise PeerGone(peer)
        answered = trio.Event()
        answers: list[bytes | Exception] = []

        async def answer(other: SimNetwork, handler: NetworkHandler) -> None:
            result: bytes | Exception | None
            try:
                result = await handler.handle_request(self._peer_id, body)
            except RequestRefused as error:
                result = RequestRejected(str(error))
            if other.deceiver is not None:
                result = other.deceiver.answer(self._peer_id, body, result)
            if result is None:
                return

            def deliver(result: bytes | Exception = result) -> None:
                answers.append(result)
                answered.set()

            self._fabric.carry(peer, self._peer_id, deliver)

        def ask() -> None:
            other = self._fabric.networks.get(peer)
            if other is not None and other._handler is not None and other._nursery is not None:
                other._nursery.start_soon(answer, other, other._handler)

        self._fabric.carry(self._peer_id, peer, ask)
        with trio.move_on_after(timeout_s):
            await answered.wait()
        if not answers:
            raise RequestTimedOut(peer)
        if isinstance(answers[0], Exception):
            raise answers[0]
        if len(answers[0]) > response_bytes_max:
            raise RequestTooLarge(peer)
        return answers[0]

    def report(self, peer: PeerId, penalty: int, reason: str) -> None:
        """Note an offence; links stay, as those of a persistent peer that redials would."""
        self.reports.append((peer, penalty, reason))

    def dial(self, address: str) -> None:
        """Everybody is linked already."""

    def send_status_now(self) -> None:
        """Send a heartbeat beside the regular ones."""
        if self._handler is None:
            return
        body = self._handler.get_status()
        for peer in list(self._links):
            if self.deceiver is None:
                self._send_status(peer, body)
                continue
            status, more = self.deceiver.tell_status(peer, body)
            for each in more:
                self._slip_in(peer, each)
            if status is not None and len(status) <= STATUS_BYTES_MAX:
                self._send_status(peer, status)

    def _slip_in(self, peer: PeerId, body: bytes) -> None:
        if self._edit(peer, Priority.CONSENSUS, body) is not None:
            self._fabric.carry(
                self._peer_id, peer, lambda: self._deliver(peer, Priority.CONSENSUS, body)
            )

    def _send_status(self, peer: PeerId, body: bytes) -> None:
        self._fabric.carry(self._peer_id, peer, lambda: self._deliver_status(peer, body))

    async def _beat(self) -> None:
        while True:
            await trio.sleep(HEARTBEAT_S * (0.9 + 0.2 * self._fabric.random.random()))
            self.send_status_now()

    def _deliver(self, peer: PeerId, priority: Priority, body: bytes) -> None:
        other = self._fabric.networks.get(peer)
        if other is not None and other._handler is not None and self._peer_id in other._links:
            other._handler.on_message(self._peer_id, priority, body)

    def _deliver_status(self, peer: PeerId, body: bytes) -> None:
        other = self._fabric.networks.get(peer)
        if other is not None and other._handler is not None and self._peer_id in other._links:
            other._handler.on_status(self._peer_id, body)
