"""The network in memory: the twin of ``LibP2PNetwork`` for tests and simulations in one process.

Owns delivery between the networks of one `MemoryHub`, with the queues, limits, scores and handshake
rules of the real one, and switches to break things: partitions, frozen nodes, dropped messages.
Never opens a socket, never copies a body.
"""

# Networks of one hub reach into each other, as no two real ones could.
# ruff: noqa: SLF001

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from p2p.address import Address, parse_address, parse_peer_address
from p2p.admission import Admission
from p2p.identity import get_peer_id
from p2p.memory_hub import MemoryHub
from p2p.network import (
    ANNOUNCEMENT_BYTES_MAX,
    ANNOUNCEMENTS_QUEUED_MAX,
    BODY_BYTES_MAX,
    REFUSAL_BYTES_MAX,
    REQUEST_BYTES_MAX,
    REQUESTS_OUTSTANDING_MAX,
    RESPONSE_BYTES_MAX,
    STATUS_BYTES_MAX,
    NetworkConfig,
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
    TooManyRequests,
)
from p2p.outbox import Outbox
from p2p.scoring import ScoreBook

__all__ = ["MemoryHub", "MemoryNetwork"]

logger = logging.getLogger("p2p")

DELIVERED_BYTES_MAX: Final = 64 * 1024
"""Bytes that a link hands over before other tasks run."""

REDIAL_S: Final = 0.05
"""Seconds between attempts to link with the configured peers."""

_STATUS_TAG: Final = bytes([255])


@dataclass(slots=True, eq=False)
class _Half:
    """One direction of a link, owned by its sender."""

    owner: "MemoryNetwork"
    peer: PeerId
    outbound: bool
    connected_at: float
    heard_at: float
    other: "_Half" = field(init=False)
    outbox: Outbox = field(default_factory=Outbox)
    bytes_sent: int = 0
    bytes_received: int = 0
    outstanding: int = 0
    closed: trio.Event = field(default_factory=trio.Event)


class MemoryNetwork:
    """A `p2p.network.Network` over a `MemoryHub`.

    Parameters
    ----------
    hub
        Where its peers are.
    config
        As for the real network.
    """

    def __init__(self, hub: MemoryHub, config: NetworkConfig) -> None:
        self._hub = hub
        self._config = config
        self._peer_id = get_peer_id(config.key_seed)
        self._listen = parse_address(config.listen)
        self._address: Address | None = None
        self._wanted: dict[PeerId, Address] = {}
        for text in (*config.persistent_peers, *config.bootstrap_peers):
            self.dial(text)
        self._halves: dict[PeerId, _Half] = {}
        self._scores = ScoreBook(config.ban_s)
        self._admission = Admission(config, self._peer_id, self._scores)
        self._seen: dict[bytes, None] = {}
        self._stopping = trio.Event()
        self._status_due = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._handler: NetworkHandler | None = None

    @property
    def peer_id(self) -> PeerId:
        """Our own peer id."""
        return self._peer_id

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """Our address with ``/p2p/<id>``; empty before `run` has started."""
        return () if self._address is None else (str(self._address),)

    async def run(
        self,
        handler: NetworkHandler,
        *,
        task_status: TaskStatus = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until cancelled or `stop`; see `p2p.network.Network.run`."""
        address = self._hub.add(self, self._listen)
        self._address = address
        self._handler = handler
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._keep_peers)
                nursery.start_soon(self._beat)
                task_status.started()
                try:
                    await self._stopping.wait()
                finally:
                    self._stopping.set()
                    self.close_links(lambda _a, _b: True)
                    nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._handler = None
            self._address = None
            self._hub.remove(self, address)

    def stop(self) -> None:
        """Stop: links are closed, `run` returns."""
        self._stopping.set()

    def peers(self) -> tuple[PeerInfo, ...]:
        """Linked peers, sorted by peer id."""
        now = trio.current_time()
        return tuple(
            PeerInfo(
                peer_id=peer,
                address=half.other.owner.listen_addresses[0],
                outbound=half.outbound,
                connected_at=half.connected_at,
                bytes_sent=half.bytes_sent,
                bytes_received=half.bytes_received,
                score=self._scores.get_score(peer, now),
                latency_ms=2000 * self._hub.latency_s,
            )
            for peer, half in sorted(self._halves.items())
        )

    def send(self, peer: PeerId, priority: Priority, body: bytes) -> bool:
        """Queue a message; see `p2p.network.Network.send`."""
        half = self._halves.get(peer)
        frame = _build_frame(priority, body)
        return half is not None and self._post(half, priority, frame)

    def broadcast(
        self, priority: Priority, body: bytes, exclude: frozenset[PeerId] = frozenset()
    ) -> int:
        """Queue a message to all but `exclude`; see `p2p.network.Network.broadcast`."""
        frame = _build_frame(priority, body)
        halves = [half for peer, half in self._halves.items() if peer not in exclude]
        return sum(self._post(half, priority, frame) for half in halves)

    def announce(self, body: bytes) -> None:
        """Spread an announcement over all hops; see `p2p.network.Network.announce`."""
        if len(body) > ANNOUNCEMENT_BYTES_MAX:
            raise ValueError(f"an announcement has at most {ANNOUNCEMENT_BYTES_MAX} bytes")
        if self._config.gossip and self._mark_seen(body):
            self._forward(body, self._peer_id)

    async def request(
        self, peer: PeerId, body: bytes, *, response_bytes_max: int, timeout_s: float
    ) -> bytes:
        """Ask a peer; see `p2p.network.Network.request`."""
        if len(body) > REQUEST_BYTES_MAX:
            raise RequestTooLarge(f"a request has at most {REQUEST_BYTES_MAX} bytes")
        half = self._halves.get(peer)
        if half is None:
            raise PeerGone(f"no link with {peer}")
        if half.outstanding >= REQUESTS_OUTSTANDING_MAX:
            raise TooManyRequests(f"{REQUESTS_OUTSTANDING_MAX} requests already wait for {peer}")
        half.outstanding += 1
        try:
            with trio.fail_after(timeout_s):
                answer = await self._ask(half, body)
        except trio.TooSlowError:
            raise RequestTimedOut(f"{peer} did not answer in {timeout_s} s") from None
        finally:
            half.outstanding -= 1
        if isinstance(answer, str):
            raise RequestRejected(answer)
        if len(answer) > response_bytes_max:
            raise RequestTooLarge(f"{peer} answers with more than {response_bytes_max} bytes")
        half.bytes_sent += len(body)
        half.bytes_received += len(answer)
        return answer

    def report(self, peer: PeerId, penalty: int, reason: str) -> None:
        """Lower a score; see `p2p.network.Network.report`."""
        if peer in self._config.unconditional_peers:
            return
        logger.info("peer %s: %s (penalty %d)", peer, reason, penalty)
        if self._scores.lower(peer, penalty, trio.current_time()):
            self.close_links(lambda _a, b: b == peer)

    def dial(self, address: str) -> None:
        """Add a persistent peer; see `p2p.network.Network.dial`."""
        peer, parsed = parse_peer_address(address)
        if peer != self._peer_id:
            self._wanted[peer] = parsed

    def send_status_now(self) -> None:
        """Send a heartbeat soon; several calls are one."""
        self._status_due.set()

    def close_links(self, rule: Callable[[PeerId, PeerId], bool]) -> None:
        """Close the links whose two ends (ours first) `rule` names."""
        for peer, half in list(self._halves.items()):
            if rule(self._peer_id, peer):
                _close(half)

    def _post(self, half: _Half, priority: Priority, frame: bytes) -> bool:
        queued = half.outbox.put(priority, frame)
        if not queued and priority is Priority.CONSENSUS:
            _close(half)
        return queued

    async def _keep_peers(self) -> None:
        while True:
            for peer, address in list(self._wanted.items()):
                other = self._hub.get(address)
                if peer not in self._halves and other is not None:
                    self._link(other)
            await trio.sleep(REDIAL_S)

    def _link(self, other: "MemoryNetwork") -> None:
        """Do the handshake; both ends decide before either acts."""
        reachable = self._hub.is_reachable(self._peer_id, other.peer_id)
        frozen = self._hub.is_frozen(self._peer_id) or self._hub.is_frozen(other.peer_id)
        reason = self._get_objection(other) or other._get_objection(self)
        if not reachable or frozen:
            return
        if reason is not None:
            logger.info("no link between %s and %s: %s", self._peer_id, other.peer_id, reason)
            return
        now = trio.current_time()
        ours = _Half(self, other.peer_id, outbound=True, connected_at=now, heard_at=now)
        theirs = _Half(other, self._peer_id, outbound=False, connected_at=now, heard_at=now)
        ours.other, theirs.other = theirs, ours
        for half in (ours, theirs):
            half.owner._start(half)

    def _start(self, half: _Half) -> None:
        if self._nursery is None or self._handler is None:
            raise RuntimeError("a link was started on a network that does not run")
        self._halves[half.peer] = half
        # Each network runs what arrives, so that a defect of its node ends no other network.
        self._nursery.start_soon(self._pump, half.other)
        self._handler.on_peer_connected(half.peer)

    def _get_objection(self, other: "MemoryNetwork") -> str | None:
        """Say why a link with `other` is refused; None when it is welcome."""
        if self._nursery is None or self._stopping.is_set():
            return "it does not run"
        theirs, ours = other._config, self._config
        for name in ("chain_id", "genesis_hash", "protocol_version"):
            if getattr(theirs, name) != getattr(ours, name):
                return f"{name} differs"
        hosts = [half.other.owner._listen.host for half in self._list()]
        host, now = other._listen.host, trio.current_time()
        return self._admission.get_link_objection(other.peer_id, host, hosts, now)

    def _list(self) -> list[_Half]:
        return list(self._halves.values())

    async def _forget(self, half: _Half) -> None:
        # No checkpoint: this runs even when the nursery is already cancelled.
        del self._halves[half.peer]
        if self._handler is not None:
            self._handler.on_peer_disconnected(half.peer)

    async def _pump(self, half: _Half) -> None:
        """Take what a peer sends on its `half` of a link, until it closes."""
        while not half.outbox.closed:
            await self._hub.wait_thawed(self._peer_id, half.owner.peer_id)
            frames, _ = half.outbox.take(DELIVERED_BYTES_MAX, with_bulk=True)
            if not frames:
                await half.outbox.wait()
                continue
            await trio.sleep(self._hub.latency_s)
            for frame in frames:
                if half.closed.is_set():
                    break
                half.bytes_sent += len(frame)
                self._receive(half.other, frame)

    def _receive(self, half: _Half, frame: bytes) -> None:
        half.heard_at = trio.current_time()
        half.bytes_received += len(frame)
        handler = self._handler
        if handler is None:
            return
        if frame[:1] == _STATUS_TAG:
            handler.on_status(half.peer, frame[1:])
            return
        priority, body = Priority(frame[0]), frame[1:]
        drop = self._hub.drop
        if drop is None or not drop(half.peer, self._peer_id, priority, body):
            handler.on_message(half.peer, priority, body)

    async def _beat(self) -> None:
        while True:
            with trio.move_on_after(self._config.heartbeat_s):
                await self._status_due.wait()
            self._status_due = trio.Event()
            if self._handler is None:
                raise RuntimeError("a heartbeat is due on a network that does not run")
            status = self._handler.get_status()
            if len(status) > STATUS_BYTES_MAX:
                raise ValueError(f"a status has at most {STATUS_BYTES_MAX} bytes")
            for half in self._list():
                half.outbox.put_heartbeat(_STATUS_TAG + status)
                if trio.current_time() - half.heard_at > self._config.peer_timeout_s:
                    _close(half)

    async def _ask(self, half: _Half, body: bytes) -> bytes | str:
        """Let the other end answer: bytes, or the reason of a refusal."""
        answers: list[bytes | str] = []
        done = trio.Event()
        other = half.other.owner
        if other._nursery is None:
            raise PeerGone(f"{half.peer} has stopped")
        other._nursery.start_soon(other._answer, half.other, body, answers, done)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_after, half.closed, nursery.cancel_scope)
            await done.wait()
            nursery.cancel_scope.cancel()
        if not answers:
            raise PeerGone(f"the link with {half.peer} closed before it answered")
        return answers[0]

    async def _answer(
        self, half: _Half, body: bytes, answers: list[bytes | str], done: trio.Event
    ) -> None:
        handler = self._handler
        if handler is None:
            return
        await self._hub.wait_thawed(self._peer_id, half.peer)
        await trio.sleep(2 * self._hub.latency_s)
        try:
            answer = await handler.handle_request(half.peer, body)
        except RequestRefused as refusal:
            answers.append(str(refusal)[:REFUSAL_BYTES_MAX])
        else:
            if len(answer) > RESPONSE_BYTES_MAX:
                raise ValueError(f"an answer has at most {RESPONSE_BYTES_MAX} bytes")
            answers.append(answer)
        done.set()

    def _mark_seen(self, body: bytes) -> bool:
        if body in self._seen:
            return False
        self._seen[body] = None
        if len(self._seen) > ANNOUNCEMENTS_QUEUED_MAX:
            del self._seen[next(iter(self._seen))]
        return True

    def _forward(self, body: bytes, source: PeerId) -> None:
        for half in self._list():
            other = half.other.owner
            if half.peer != source and other._nursery is not None and other._config.gossip:
                other._nursery.start_soon(other._take_announcement, half.other, body)

    async def _take_announcement(self, half: _Half, body: bytes) -> None:
        await trio.sleep(self._hub.latency_s)
        frozen = self._hub.is_frozen(self._peer_id) or self._hub.is_frozen(half.peer)
        if half.closed.is_set() or frozen or self._handler is None:
            return
        if self._mark_seen(body):
            self._handler.on_announcement(half.peer, body)
            self._forward(body, half.peer)


def _build_frame(priority: Priority, body: bytes) -> bytes:
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"a message has at most {BODY_BYTES_MAX} bytes")
    return bytes([priority]) + body


def _close(half: _Half) -> None:
    """Close both directions of a link, once.

    The nodes are told by a task of their own: a handler is never called out of its own call.
    """
    for end in (half, half.other):
        if not end.closed.is_set():
            end.closed.set()
            end.outbox.clear()
            if end.owner._nursery is not None:
                end.owner._nursery.start_soon(end.owner._forget, end)


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
