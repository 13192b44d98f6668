"""The contract of the peer-to-peer network: what a node asks of it and what it gives back.

Owns the types, limits and errors that every implementation shares: ``LibP2PNetwork`` over TCP,
noise and yamux, and ``MemoryNetwork``, its in-memory twin. Never opens a socket and never looks
into a body.

The error tree::

    NetworkError                 anything that went wrong on the network
    +-- ListenError              our own listen address cannot be used: the node must not start
    +-- RequestFailed            a request to a peer brought no answer; ask another peer
    |   +-- PeerGone             the peer has no link, or lost it before it answered
    |   +-- RequestRejected      the peer refused; its reason is in the message
    |   +-- RequestTimedOut      the peer did not answer in time
    |   +-- RequestTooLarge      the peer's answer (or our question) is over the limit
    |   +-- TooManyRequests      we already wait for as many answers of this peer as is allowed
    +-- RequestRefused           raised by a handler, to refuse a peer's request with a reason
"""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final, NewType, Protocol

import trio

PeerId = NewType("PeerId", str)
"""Base58 libp2p peer id of an Ed25519 key; authenticated by the noise handshake."""

PROTOCOL_VERSION: Final = 1
"""Version of the frames in this package, beside the node's own ``protocol_version``."""

FRAME_BYTES_MAX: Final = 1024 * 1024 + 64 * 1024
"""Longest frame on a link or a request stream, header included, in bytes."""

FRAME_HEADER_BYTES: Final = 16
"""Room of a frame's length, kind and request id, in bytes, rounded up."""

BODY_BYTES_MAX: Final = FRAME_BYTES_MAX - FRAME_HEADER_BYTES
"""Longest body that `Network.send` and `broadcast` take, in bytes."""

RESPONSE_BYTES_MAX: Final = BODY_BYTES_MAX
"""Longest answer of `NetworkHandler.handle_request`, in bytes."""

REQUEST_BYTES_MAX: Final = 64 * 1024
"""Longest body of a request, in bytes."""

STATUS_BYTES_MAX: Final = 16 * 1024
"""Longest status that rides on a heartbeat, in bytes."""

ANNOUNCEMENT_BYTES_MAX: Final = 256 * 1024
"""Longest announcement, in bytes. Gossipsub drops messages near 1 MiB without a word."""

ANNOUNCEMENTS_QUEUED_MAX: Final = 256
"""Announcements waiting to be published; one more is dropped."""

REFUSAL_BYTES_MAX: Final = 256
"""Longest reason of a refusal or a goodbye, in UTF-8 bytes; longer ones are cut."""

REQUESTS_OUTSTANDING_MAX: Final = 64
"""Requests of ours that one peer may still have to answer."""

REQUESTS_SERVED_MAX: Final = 64
"""Requests of one peer that we serve at a time; one more is refused."""

SCORE_MAX: Final = 100
"""Score of a peer that nothing is known against."""

SCORE_BAN: Final = 0
"""A peer whose score falls to this or below is disconnected and banned for ``ban_s``."""

SCORE_RECOVERY_PER_S: Final = 1
"""Points of its score that a peer earns back per second, up to `SCORE_MAX`."""


class TaskStatus(Protocol):
    """What ``nursery.start`` hands to `Network.run`."""

    def started(self) -> None:
        """Tell ``nursery.start`` to return."""


class Priority(IntEnum):
    """Urgency of a message on a link; the lower one is sent first."""

    CONSENSUS = 0
    MEMPOOL = 1
    BULK = 2


QUEUE_MESSAGES_MAX: Final[dict[Priority, int]] = {
    Priority.CONSENSUS: 8192,
    Priority.MEMPOOL: 1024,
    Priority.BULK: 256,
}
"""Messages that may wait on one link, per priority."""

QUEUE_BYTES_MAX: Final[dict[Priority, int]] = {
    Priority.CONSENSUS: 32 * 1024 * 1024,
    Priority.MEMPOOL: 8 * 1024 * 1024,
    Priority.BULK: 8 * 1024 * 1024,
}
"""Bytes that may wait on one link, per priority."""


class NetworkError(Exception):
    """Anything that went wrong on the network; the base of this package's errors."""


class ListenError(NetworkError):
    """Our own listen address cannot be used. The message is one sentence for the user."""


class RequestFailed(NetworkError):  # noqa: N818 - it reads as what happened.
    """A request brought no answer. Ask another peer."""


class PeerGone(RequestFailed):
    """The peer has no link, or lost it before it answered."""


class RequestRejected(RequestFailed):
    """The peer refused the request; the message holds its reason."""


class RequestTimedOut(RequestFailed):
    """The peer did not answer in time."""


class RequestTooLarge(RequestFailed):
    """The answer is over ``response_bytes_max``, or the request is over `REQUEST_BYTES_MAX`."""


class TooManyRequests(RequestFailed):
    """As many requests as allowed (`REQUESTS_OUTSTANDING_MAX`) already wait for this peer."""


class RequestRefused(NetworkError):  # noqa: N818 - raised by a handler: the refusal itself.
    """Raised by `NetworkHandler.handle_request` to refuse; the message travels to the peer."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What is known of a linked peer.

    Attributes
    ----------
    peer_id
        Who it is.
    address
        Where it is, as a multiaddress; ``""`` when the transport does not tell.
    outbound
        Whether this side dialed.
    connected_at
        Time of the link handshake, in seconds of ``trio.current_time()``.
    bytes_sent, bytes_received
        Bytes of frames on the link and the request stream.
    score
        `SCORE_MAX` at best; at `SCORE_BAN` the peer is banned.
    latency_ms
        Round trip of the last heartbeat in milliseconds; None before the first.
    """

    peer_id: PeerId
    address: str
    outbound: bool
    connected_at: float
    bytes_sent: int
    bytes_received: int
    score: int
    latency_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Everything a network is told before it runs.

    Attributes
    ----------
    chain_id
        At most 50 characters of ``[A-Za-z0-9._-]``; part of the protocol names.
    genesis_hash
        32 bytes, compared in the handshake of a link.
    protocol_version
        The node's protocol version, compared in the handshake of a link.
    key_seed
        32 bytes: the Ed25519 identity.
    listen
        Multiaddress to listen on, ``/ip4/127.0.0.1/tcp/26656``; port 0 takes any free port.
    external_address
        Multiaddress under which others reach this node; ``""`` for the listen addresses.
    persistent_peers, bootstrap_peers
        Multiaddresses with ``/p2p/<id>``. Persistent ones are dialed for ever; bootstrap ones while
        there are few links.
    unconditional_peers
        Peers that limits and bans do not touch. Persistent peers are not unconditional by that
        alone.
    private_peers
        Peers whose addresses are never told to others.
    allowed_peers
        Permissioned mode: only these may link. None admits everyone.
    peers_max, peers_per_address_max
        Linked peers in all, and from one IP address.
    gossip
        Whether gossipsub carries announcements. Everything works without.
    peer_exchange
        Whether addresses of other peers are told, asked for and dialed.
    heartbeat_s
        Seconds between heartbeats on a link.
    peer_timeout_s
        A peer silent for as many seconds loses its link.
    bulk_bytes_per_s_max
        Bytes per second, over all links, that answers and BULK messages may take.
    ban_s
        Seconds that a ban lasts.
    """

    chain_id: str
    genesis_hash: bytes
    protocol_version: int
    key_seed: bytes
    listen: str
    external_address: str = ""
    persistent_peers: tuple[str, ...] = ()
    bootstrap_peers: tuple[str, ...] = ()
    unconditional_peers: tuple[PeerId, ...] = ()
    private_peers: tuple[PeerId, ...] = ()
    allowed_peers: frozenset[PeerId] | None = None
    peers_max: int = 64
    peers_per_address_max: int = 16
    gossip: bool = True
    peer_exchange: bool = True
    heartbeat_s: float = 0.25
    peer_timeout_s: float = 4.0
    bulk_bytes_per_s_max: int = 50_000_000
    ban_s: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.chain_id) <= 50 or not all(
            char.isascii() and (char.isalnum() or char in "._-") for char in self.chain_id
        ):
            raise ValueError("chain_id must be 1 to 50 characters out of A-Z a-z 0-9 . _ -")
        if len(self.genesis_hash) != 32 or len(self.key_seed) != 32:
            raise ValueError("genesis_hash and key_seed must be 32 bytes each")
        if not 0 <= self.protocol_version < 2**32:
            raise ValueError("protocol_version must be between 0 and 2^32 - 1")
        for name in POSITIVE_SETTINGS:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if self.peer_timeout_s < 2 * self.heartbeat_s:
            raise ValueError("peer_timeout_s must be at least two times heartbeat_s")

    def __repr__(self) -> str:
        """Leave the secret seed out of logs and tracebacks."""
        shown = (f.name for f in fields(self) if f.name != "key_seed")
        return f"NetworkConfig({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


POSITIVE_SETTINGS: Final = (
    "peers_max",
    "peers_per_address_max",
    "heartbeat_s",
    "peer_timeout_s",
    "bulk_bytes_per_s_max",
    "ban_s",
)
"""Settings of `NetworkConfig` that must be above zero."""


class NetworkHandler(Protocol):
    """What the node gives the network.

    Every synchronous method returns at once. None may raise for a peer's sake: an exception out of
    one of them is a defect of the node and ends `Network.run` with it. `on_message`, `on_status`
    and `handle_request` are only called between `on_peer_connected` and `on_peer_disconnected`.
    """

    def on_peer_connected(self, peer: PeerId) -> None:
        """Learn that a link stands: its handshake is done and `Network.send` works."""

    def on_peer_disconnected(self, peer: PeerId) -> None:
        """Learn that the link is gone. Called once for each `on_peer_connected`."""

    def on_message(self, peer: PeerId, priority: Priority, body: bytes) -> None:
        """Take a message that arrived on the link of `peer`."""

    def on_announcement(self, peer: PeerId, body: bytes) -> None:
        """Take an announcement; `peer` is who forwarded it, its origin is unknown."""

    def get_status(self) -> bytes:
        """Give the status for the next heartbeat, at most `STATUS_BYTES_MAX` bytes."""
        ...

    def on_status(self, peer: PeerId, body: bytes) -> None:
        """Take the status of `peer` off a heartbeat."""

    async def handle_request(self, peer: PeerId, body: bytes) -> bytes:
        """Answer a request of `peer`, in at most `RESPONSE_BYTES_MAX` bytes.

        Raises
        ------
        RequestRefused
            To refuse; the peer gets the reason.
        """
        ...


class Network(Protocol):
    """A node's view of its peers. All methods belong to one trio thread; none but two are async."""

    @property
    def peer_id(self) -> PeerId:
        """Our own peer id, known before `run`."""
        ...

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """Our addresses with ``/p2p/<id>``; empty before `run` has started."""
        ...

    async def run(
        self,
        handler: NetworkHandler,
        *,
        task_status: TaskStatus = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until cancelled or `stop`; ``started()`` is called once listening. Runs once.

        Raises
        ------
        ListenError
            If the listen address cannot be used, for instance when the port is in use.
        """

    def stop(self) -> None:
        """Stop in order: goodbye to the peers, sockets closed, `run` returns within 3 seconds."""

    def peers(self) -> tuple[PeerInfo, ...]:
        """Linked peers, sorted by peer id."""
        ...

    def send(self, peer: PeerId, priority: Priority, body: bytes) -> bool:
        """Queue a message to `peer`; never blocks.

        Returns
        -------
        bool
            False without a link or with a full queue. A full CONSENSUS queue also closes the link:
            a peer that slow holds nothing up but itself.

        Raises
        ------
        ValueError
            If `body` is over `BODY_BYTES_MAX`.
        """
        ...

    def broadcast(
        self, priority: Priority, body: bytes, exclude: frozenset[PeerId] = frozenset()
    ) -> int:
        """Queue a message to every linked peer but `exclude`; the frame is built once.

        Returns
        -------
        int
            Number of links it was queued on.

        Raises
        ------
        ValueError
            If `body` is over `BODY_BYTES_MAX`.
        """
        ...

    def announce(self, body: bytes) -> None:
        """Queue an announcement to everyone, over several hops; lossy, dropped when full or off.

        Raises
        ------
        ValueError
            If `body` is over `ANNOUNCEMENT_BYTES_MAX`.
        """

    async def request(
        self, peer: PeerId, body: bytes, *, response_bytes_max: int, timeout_s: float
    ) -> bytes:
        """Ask `peer` and wait for its answer.

        Raises
        ------
        RequestFailed
            One of its kinds: peer gone, refused, timed out, too large, too many at a time.
        """
        ...

    def report(self, peer: PeerId, penalty: int, reason: str) -> None:
        """Lower the score of `peer`; at `SCORE_BAN` it is disconnected and banned for ``ban_s``."""

    def dial(self, address: str) -> None:
        """Add a persistent peer, ``/ip4/../tcp/../p2p/<id>``.

        Raises
        ------
        ValueError
            If the address cannot be read.
        """

    def send_status_now(self) -> None:
        """Send a heartbeat with the status at once; calls before it leaves are one."""
