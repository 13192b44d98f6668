"""The one file that imports py-libp2p: a host over TCP, noise and yamux, and its gossipsub.

Owns, with `p2p.sockets` and `p2p.stream_wire`, every workaround that py-libp2p 0.8.1 needs, each a
function or class with its reason and a test that fails without it
(``tests/p2p/test_workarounds.py``). Never knows of links, requests or scores.
"""

import logging
from collections.abc import Callable
from typing import Any, cast

import trio
from libp2p import new_host
from libp2p.abc import (
    IListener,
    INetConn,
    INetStream,
    INetwork,
    INotifee,
    IRawConnection,
    ISubscriptionAPI,
)
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import THandler, TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub, get_content_addressed_msg_id
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux import yamux
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.address import Address
from p2p.connections import ConnectionWatch
from p2p.host_limits import (
    ANNOUNCEMENT_RPC_BYTES_MAX,
    CLOSE_S,
    DIAL_S,
    NEGOTIATE_S,
    OPEN_LIMIT,
    STREAMS_PER_CONNECTION_MAX,
    UPGRADE_S,
    YAMUX_FRAME_BYTES,
)
from p2p.network import ANNOUNCEMENTS_QUEUED_MAX, PeerId
from p2p.sockets import Acceptor, bind, get_bound_address
from p2p.stream_wire import Connection, StreamWire, build_open_error, force_close
from p2p.wire import HostOwner, WireClosed

logger = logging.getLogger("p2p")


def use_one_packet_frames() -> None:
    """Make one yamux frame one noise packet: the default of 64 KiB takes one and a bit."""
    yamux.MAX_MESSAGE_SIZE = YAMUX_FRAME_BYTES


use_one_packet_frames()


def build_closed_error(reason: str) -> Exception:
    """Make the error by which py-libp2p knows that a connection is closed."""
    return ConnectionClosedError(reason, transport="tcp")


class Listener(IListener):
    """py-libp2p's view of a listener that is bound already."""

    def __init__(self, transport: "Transport", handler: THandler) -> None:
        self._transport = transport
        self._handler = handler

    async def listen(self, maddr: Multiaddr) -> None:  # noqa: ARG002 - it is bound already.
        """Accept connections."""
        bound, nursery = self._transport.bound, self._transport.nursery
        if bound is None or nursery is None:
            raise RuntimeError("the host does not run")
        handler = cast("Any", self._handler)
        nursery.start_soon(self._transport.acceptor.serve, bound, handler, nursery)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """Give the bound address."""
        bound = self._transport.bound
        return () if bound is None else (Multiaddr(get_bound_address(bound).location),)

    async def close(self) -> None:
        """Accept no more."""
        self._transport.acceptor.close()


class Transport(TCP):
    """TCP with our sockets and our listener."""

    def __init__(self) -> None:
        super().__init__()
        self.acceptor = Acceptor(build_closed_error)
        self.bound: trio.SocketListener | None = None
        self.nursery: trio.Nursery | None = None

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Dial, with our socket."""
        raw = cast("Any", await super().dial(maddr))
        raw.stream = self.acceptor.wrap(raw.stream.stream)
        return cast("IRawConnection", raw)

    def create_listener(self, handler_function: THandler) -> Any:  # noqa: ANN401
        """Create our listener."""
        return Listener(self, handler_function)


def build_open_limits() -> dict[str, Any]:
    """Open the library's limits, which count every connection ever accepted and never forget one.

    Ours are in `Listener`, in `Gate` and in `p2p.host`.
    """
    return {
        "connection_config": ConnectionConfig(
            max_connections=OPEN_LIMIT,
            high_watermark=OPEN_LIMIT,
            low_watermark=0,
            min_connections=0,
            max_connections_per_peer=OPEN_LIMIT,
            inbound_upgrade_timeout=UPGRADE_S,
            outbound_upgrade_timeout=UPGRADE_S,
            inbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
            outbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
        ),
        "resource_manager": ResourceManager(
            limits=ResourceLimits(OPEN_LIMIT, 10**6, OPEN_LIMIT),
            connection_limits=ConnectionLimits(),
            enable_rate_limiting=False,
            enable_circuit_breaker=False,
            enable_graceful_degradation=False,
            enable_metrics=False,
        ),
    }


def build_security(key_seed: bytes) -> dict[TProtocol, Any]:
    """Offer noise alone: the default also offers plaintext, where anyone may claim any peer id."""
    noise = NoiseTransport(
        create_new_key_pair(key_seed), noise_privkey=create_noise_key_pair().private_key
    )
    return {NOISE_PROTOCOL: noise}


def guard_streams(host: BasicHost, on_fault: Callable[[PeerId, str], None]) -> None:
    """Catch what a stream of a peer raises: the library would end the whole host.

    One packet is enough for that, for instance an invalid UTF-8 protocol name.
    """
    network = host.get_network()
    inner = cast("Swarm", network).common_stream_handler

    async def guarded(stream: INetStream) -> None:
        peer = PeerId(str(stream.muxed_conn.peer_id))
        try:
            if len(cast("Any", stream).swarm_conn.get_streams()) > STREAMS_PER_CONNECTION_MAX:
                raise ValueError(f"more than {STREAMS_PER_CONNECTION_MAX} streams")
            await inner(stream)
        except Exception as error:  # noqa: BLE001 - the reason of this function.
            if not isinstance(error, BaseLibp2pError):
                on_fault(peer, f"a stream with {type(error).__name__}: {error}"[:200])
            try:
                await stream.reset()
            except Exception as again:  # noqa: BLE001 - the stream is gone.
                logger.debug("reset: %r", again)

    network.set_stream_handler(guarded)


def serve_only(host: BasicHost) -> None:
    """Serve no protocol but ours: no identify, no push, no ping.

    Identify would store whatever addresses a peer claims, and take streams on every connection.
    """
    for protocol in list(host.multiselect.handlers):
        if protocol is not None:
            host.remove_stream_handler(protocol)
    cast("Any", host)._schedule_identify = lambda *_args, **_kwargs: None  # noqa: SLF001


class NoAutoConnector(AutoConnector):
    """Dials nobody: the library's own dials whom it remembers, and notes every disconnect."""

    async def maybe_connect(self) -> None:
        """Do nothing."""

    def record_disconnect(self, peer_id: ID) -> None:
        """Do nothing."""


class SafePubsub(Pubsub):
    """A Pubsub in which one bad message harms nobody, and no peer may send without bound."""

    may_forward: Callable[[PeerId], bool]

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Take a message; the library lets what it raises end the process."""
        try:
            if msg_forwarder == self.my_id or self.may_forward(PeerId(str(msg_forwarder))):
                await super().push_msg(msg_forwarder, msg)
        except Exception as error:  # noqa: BLE001 - the reason of this method.
            logger.debug("an announcement was dropped: %r", error)


class Gate(INotifee):
    """Sees every connection begin. It must not wait for a close: that would never return."""

    def __init__(self, watch: ConnectionWatch) -> None:
        self._watch = watch

    async def connected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002
        """Judge a new connection."""
        self._watch.judge(cast("Connection", conn))

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """Nothing to do."""

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing to do."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing to do."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Nothing to do."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Nothing to do."""


class Host:
    """A host of py-libp2p and its gossipsub.

    Parameters
    ----------
    key_seed
        32 bytes: the Ed25519 identity.
    protocols
        Names of the protocols whose streams `HostOwner.take_stream` gets.
    topic
        Gossipsub topic of announcements; None for no gossipsub.
    owner
        The network.
    """

    def __init__(
        self, key_seed: bytes, protocols: tuple[str, ...], topic: str | None, owner: HostOwner
    ) -> None:
        self.transport = Transport()
        self._owner = owner
        self._topic = topic
        self._host = cast(
            "BasicHost",
            new_host(
                key_pair=create_new_key_pair(key_seed),
                sec_opt=build_security(key_seed),
                muxer_opt={TProtocol(yamux.PROTOCOL_ID): yamux.Yamux},
                transports=[self.transport],
                **build_open_limits(),
            ),
        )
        self._swarm = cast("Swarm", self._host.get_network())
        self._swarm.retry_config = RetryConfig(max_retries=0)  # Dialing again is `p2p.keeping`'s.
        self._swarm.auto_connector = NoAutoConnector(self._swarm)
        self._watch = ConnectionWatch(owner, self.transport.acceptor, self._list_connections)
        self._swarm.register_notifee(Gate(self._watch))
        self._unpublished, self._to_publish = trio.open_memory_channel[bytes](
            ANNOUNCEMENTS_QUEUED_MAX
        )
        serve_only(self._host)
        guard_streams(self._host, owner.on_fault)
        for protocol in protocols:
            self._serve(protocol)

    def _serve(self, protocol: str) -> None:
        async def take(stream: INetStream) -> None:
            await self._owner.take_stream(protocol, StreamWire(stream))

        self._host.set_stream_handler(TProtocol(protocol), take)

    async def bind(self, address: Address) -> None:
        """Listen on `address`, before anything runs: py-libp2p would swallow a failure.

        Raises
        ------
        ListenError
            With a sentence that says why not.
        """
        self.transport.bound = await bind(address)

    def get_address(self) -> Address:
        """Give the address that the host is bound to."""
        if self.transport.bound is None:
            raise RuntimeError("the host does not listen")
        return get_bound_address(self.transport.bound)

    async def run(self, ready: trio.Event, closing: trio.Event) -> None:
        """Run, after `bind`, until `closing` is set; sets `ready` once connections are accepted."""
        try:
            async with trio.open_nursery() as nursery:
                self.transport.nursery = nursery
                async with self._host.run(listen_addrs=[Multiaddr(self.get_address().location)]):
                    nursery.start_soon(self._watch.run, nursery)
                    nursery.start_soon(self._run_gossip)
                    ready.set()
                    try:
                        await closing.wait()
                    finally:
                        # Before anything is cancelled, so that the peers are told.
                        with trio.move_on_after(CLOSE_S) as scope:
                            scope.shield = True
                            await self._host.close()
                nursery.cancel_scope.cancel()
        finally:
            # The library leaves sockets open when it is cancelled or fails.
            self.transport.acceptor.abort_all()

    async def dial(self, peer: PeerId, address: Address) -> object:
        """Connect with `peer`, which must prove who it is; give the connection.

        The swarm is asked directly: ``connect`` would remember a failure for a minute, and start a
        quarter of a second late.

        Raises
        ------
        WireClosed
            If that fails, with the reason.
        """
        try:
            with trio.fail_after(DIAL_S):
                return await self._swarm.dial_addr(
                    Multiaddr(address.location), ID.from_base58(peer)
                )
        except trio.TooSlowError:
            raise WireClosed(f"{address} did not answer in {DIAL_S} s") from None
        except Exception as error:
            # The library raises errors of many unrelated classes here, and all mean one thing.
            raise WireClosed(f"cannot dial {address}: {error}") from error

    async def open_wire(self, connection: object, protocol: str) -> StreamWire:
        """Open a stream on this connection, where the library takes any with the same peer.

        Raises
        ------
        WireClosed
            If that fails, with the reason; `ProtocolUnknown` if the peer does not speak it.
        """
        conn = cast("INetConn", connection)
        stream: INetStream | None = None
        try:
            stream = await conn.new_stream()
            await self._host.multiselect_client.select_one_of(
                [TProtocol(protocol)], MultiselectCommunicator(stream), NEGOTIATE_S
            )
        except Exception as error:
            # The library raises errors of many unrelated classes here, and all mean one thing.
            if stream is not None:
                await StreamWire(stream).reset()
            raise build_open_error(protocol, error) from error
        return StreamWire(stream)

    async def close_connection(self, connection: object) -> None:
        """Close a connection that `dial` gave."""
        await force_close(cast("Connection", connection))

    def count_connections(self) -> int:
        """Count the connections whose handshake is done."""
        return len(self._swarm.get_connections())

    def announce(self, body: bytes) -> None:
        """Queue an announcement; it is dropped when the queue is full."""
        try:
            self._unpublished.send_nowait(body)
        except trio.WouldBlock:
            logger.debug("an announcement was dropped: the queue is full")

    def _list_connections(self) -> list[Connection]:
        return cast("list[Connection]", self._swarm.get_connections())

    async def _run_gossip(self) -> None:
        """Spread and receive announcements; a defect of gossipsub ends them, not the host."""
        if self._topic is None:
            return
        try:
            await self._serve_topic(self._topic)
        except* Exception as errors:
            # Whatever it is, links and requests must go on without announcements.
            logger.exception("announcements have ended: %r", errors.exceptions)

    async def _serve_topic(self, topic: str) -> None:
        router = GossipSub(
            [PROTOCOL_ID_V11],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=1,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
            adaptive_gossip_enabled=False,
            do_px=False,
        )
        pubsub = SafePubsub(
            self._host,
            router,
            strict_signing=True,
            # By content: sequence numbers lose messages after a restart.
            msg_id_constructor=get_content_addressed_msg_id,
            allowed_topics=frozenset({topic}),
            max_inbound_rpc_size=ANNOUNCEMENT_RPC_BYTES_MAX,
        )
        pubsub.may_forward = self._owner.may_forward
        pubsub.set_topic_validator(topic, self._take_announcement, is_async_validator=False)
        try:
            async with background_trio_service(pubsub), background_trio_service(router):
                await pubsub.wait_until_ready()
                subscription = await pubsub.subscribe(topic)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_drain, subscription)
                    async for body in self._to_publish:
                        await pubsub.publish(topic, body)
        finally:
            # It has a thread, which the library leaves running.
            pubsub.seen_messages.stop()

    def _take_announcement(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        # The validator is the one place that sees each new message once, with its forwarder.
        own = self._host.get_id()
        if forwarder != own and message.from_id != own.to_bytes():
            self._owner.take_announcement(PeerId(str(forwarder)), message.data)
        return True


async def _drain(subscription: ISubscriptionAPI) -> None:
    while True:
        await subscription.get()
