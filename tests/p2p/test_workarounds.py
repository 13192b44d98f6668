"""Each workaround around py-libp2p, with it and without it.

The cases without show that the workaround is still needed: when one of them fails after an upgrade,
the library has mended the defect, and the workaround may go.
"""

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.io.utils import read_exactly
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.rcmgr.manager import ResourceManager
from libp2p.stream_muxer.yamux import yamux
from libp2p.transport.tcp.tcp import TCP
from libp2p.utils import encode_varint_prefixed
from trio.testing import memory_stream_pair

from p2p import connections, libp2p_host, sockets, stream_wire
from p2p.address import parse_address, parse_peer_address
from p2p.libp2p_host import Host
from p2p.network import ListenError, PeerId
from p2p.stream_wire import StreamWire
from p2p.wire import HostOwner, WireClosed
from tests.p2p.gossip_messages import build_announcement

ECHO = "/test/echo/1"
TOPIC = "/test/announce/1"
LOOPBACK = parse_address("/ip4/127.0.0.1/tcp/0")

logging.getLogger("libp2p").setLevel(logging.CRITICAL)


class Node:
    """A host and what it told its owner."""

    def __init__(self, index: int, *, gossip: bool = False) -> None:
        self.faults: list[str] = []
        self.announcements: list[bytes] = []
        self.objection: str | None = None
        self.used = True
        self.validator: Callable[[bytes], None] = self.announcements.append
        self.closing = trio.Event()
        self.host = Host(
            index.to_bytes(32, "big"),
            (ECHO,),
            TOPIC if gossip else None,
            HostOwner(
                take_stream=self.echo,
                get_objection=lambda _peer: self.objection,
                is_used=lambda _connection: self.used,
                may_forward=lambda _peer: True,
                take_announcement=lambda _peer, body: self.validator(body),
                on_fault=lambda _peer, reason: self.faults.append(reason),
            ),
        )
        self.peer_id = PeerId(str(self.host._host.get_id()))

    async def echo(self, _protocol: str, wire: Any) -> None:
        try:
            while True:
                data = await wire.read(65536)
                await wire.write(data)
        except WireClosed:
            pass

    @property
    def address(self) -> str:
        return f"{self.host.get_address().location}/p2p/{self.peer_id}"

    async def dial(self, other: "Node") -> Any:
        return await self.host.dial(*parse_peer_address(other.address))

    async def call(self, other: "Node") -> bytes:
        """Dial, and have some bytes echoed."""
        with trio.fail_after(4):
            connection = await self.dial(other)
            wire = await self.host.open_wire(connection, ECHO)
            await wire.write(b"hello")
            answer = await wire.read(100)
            await wire.force_close()
            return answer


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """Run hosts until the block ends, or until one of them dies."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            ready = trio.Event()
            await node.host.bind(LOOPBACK)
            nursery.start_soon(node.host.run, ready, node.closing)
            await ready.wait()
        try:
            yield
        finally:
            for node in nodes:
                node.closing.set()


async def survives(attack: Callable[[Node, Node], Awaitable[object]], *, gossip: bool) -> bool:
    """Tell whether a host still serves after an attack of a peer."""
    victim, attacker, honest = Node(1, gossip=gossip), Node(2), Node(3)
    try:
        async with running(victim, attacker, honest):
            await trio.sleep(0.2 if gossip else 0)
            await attack(attacker, victim)
            await trio.sleep(0.2)
            return await honest.call(victim) == b"hello"
    except BaseExceptionGroup:
        return False


async def send_bad_protocol_name(attacker: Node, victim: Node) -> None:
    connection = await attacker.dial(victim)
    stream = await connection.new_stream()
    await stream.write(encode_varint_prefixed(b"/multistream/1.0.0\n"))
    await stream.write(encode_varint_prefixed(b"\xff\xfe\xfd\n"))


async def send_gossip(attacker: Node, victim: Node, raw: bytes) -> None:
    connection = await attacker.dial(victim)
    wire = await attacker.host.open_wire(connection, PROTOCOL_ID_V11)
    await wire.write(encode_varint_prefixed(raw))


async def send_gossip_garbage(attacker: Node, victim: Node) -> None:
    await send_gossip(attacker, victim, b"\xff" * 200)


async def send_bad_key(attacker: Node, victim: Node) -> None:
    message = build_announcement(attacker.host, TOPIC, b"x")
    # A peer id that does not hold its key, so that the key is read.
    message.from_id = b"\x12\x20" + b"a" * 32
    message.key = b"\xff\xff\xff"
    rpc = rpc_pb2.RPC(publish=[message])
    await send_gossip(attacker, victim, rpc.SerializeToString())


async def send_what_the_validator_cannot_take(attacker: Node, victim: Node) -> None:
    def fail(_body: bytes) -> None:
        raise KeyError("a defect of a validator")

    victim.validator = fail
    rpc = rpc_pb2.RPC(publish=[build_announcement(attacker.host, TOPIC, b"x")])
    await send_gossip(attacker, victim, rpc.SerializeToString())


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("attack", [send_bad_protocol_name, send_gossip_garbage])
async def test_one_packet_does_not_end_a_guarded_host(
    monkeypatch: Any, attack: Any, guarded: bool
) -> None:
    if not guarded:
        monkeypatch.setattr(libp2p_host, "guard_streams", lambda _host, _on_fault: None)
    assert await survives(attack, gossip=attack is send_gossip_garbage) is guarded


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("attack", [send_bad_key, send_what_the_validator_cannot_take])
async def test_a_bad_announcement_does_not_end_gossip(
    monkeypatch: Any, caplog: Any, attack: Any, guarded: bool
) -> None:
    if not guarded:
        monkeypatch.setattr(libp2p_host.SafePubsub, "push_msg", Pubsub.push_msg)
    victim, attacker, honest = Node(1, gossip=True), Node(2), Node(3)
    async with running(victim, attacker, honest):
        await trio.sleep(0.2)
        await attack(attacker, victim)
        await trio.sleep(0.2)
        victim.validator = victim.announcements.append
        rpc = rpc_pb2.RPC(publish=[build_announcement(honest.host, TOPIC, b"honest")])
        if guarded:
            await send_gossip(honest, victim, rpc.SerializeToString())
            await trio.sleep(0.2)
            assert b"honest" in victim.announcements
        # The host goes on in any case.
        assert await honest.call(victim) == b"hello"
    assert ("announcements have ended" in caplog.text) is not guarded


@pytest.mark.parametrize("alone", [True, False])
async def test_nobody_may_skip_noise(monkeypatch: Any, alone: bool) -> None:
    if not alone:
        monkeypatch.setattr(libp2p_host, "build_security", lambda _seed: None)
    victim = Node(1)
    async with running(victim):
        stream = await trio.open_tcp_stream("127.0.0.1", victim.host.get_address().port)
        async with stream:
            await stream.send_all(encode_varint_prefixed(b"/multistream/1.0.0\n"))
            await stream.send_all(encode_varint_prefixed(b"/plaintext/2.0.0\n"))
            received = b""
            with trio.move_on_after(1):
                while received.count(b"\n") < 2:
                    received += await stream.receive_some(1000)
    assert (b"/plaintext/2.0.0" not in received) is alone


@pytest.mark.parametrize("opened", [True, False])
async def test_more_connections_than_the_library_counts(monkeypatch: Any, opened: bool) -> None:
    """Stock limits refuse every connection after the 250th or so; here the limit is 5."""
    if not opened:
        stock = libp2p_host.build_open_limits()
        stock["connection_config"].max_connections = 5
        monkeypatch.setattr(libp2p_host, "build_open_limits", lambda: stock)
        monkeypatch.setattr(sockets.SocketStream, "close", _close_and_leak)
    server, client = Node(1), Node(2)
    async with running(server, client):
        n_served = 0
        for _ in range(8):
            try:
                n_served += await client.call(server) == b"hello"
            except (WireClosed, trio.TooSlowError):
                break
        assert (n_served == 8) is opened


async def _close_and_leak(sock: sockets.SocketStream) -> None:
    # Without `closed` being set, the task of the connection stays, as the library's own does.
    await sock._stream.aclose()


async def test_260_connections_in_a_row_leave_nothing_behind() -> None:
    server, client = Node(1), Node(2)
    async with running(server, client):
        for _ in range(260):
            connection = await client.dial(server)
            client.host.transport.nursery.start_soon(client.host.close_connection, connection)
        await trio.sleep(1)
        assert await client.call(server) == b"hello"
        await trio.sleep(0.5)
        assert len(server.host.transport.acceptor.half_open) == 0
        assert server.host.count_connections() == 0
        assert server.host._swarm._inbound_limiter.borrowed_tokens == 0
        n_tasks = len(server.host.transport.nursery.child_tasks)
        assert n_tasks < 20


@pytest.mark.parametrize("bound_first", [True, False])
async def test_a_port_in_use_is_noticed(bound_first: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = parse_address(f"/ip4/127.0.0.1/tcp/{other.getsockname()[1]}")
        if bound_first:
            sentence = r"the port is in use: stop the program .* or set another .*\[p2p\] listen$"
            with pytest.raises(ListenError, match=sentence):
                await sockets.bind(address)
            return
        # The library starts all the same, and listens nowhere.
        host = libp2p_host.new_host(sec_opt=libp2p_host.build_security(bytes(32)))
        async with host.run(listen_addrs=[libp2p_host.Multiaddr(address.location)]):
            assert host.get_addrs() == []


@pytest.mark.parametrize("exclusive", [True, False])
async def test_two_nodes_cannot_share_a_port(exclusive: bool) -> None:
    listener = await sockets.bind(LOOPBACK)
    address = sockets.get_bound_address(listener)
    if exclusive:
        with pytest.raises(ListenError):
            await sockets.bind(address)
        await listener.aclose()
        return
    await listener.aclose()
    stock: list[Any] = []
    for _ in range(2):
        stock.append(TCP().create_listener(_ignore))  # noqa: PERF401
    for one in stock:
        await one.listen(libp2p_host.Multiaddr(address.location))
    assert stock[0].get_addrs() == stock[1].get_addrs()
    for one in stock:
        await one.close()


async def _ignore(_stream: Any) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("ours", [True, False])
async def test_reading_does_not_give_up_after_100_pieces(ours: bool) -> None:
    near, far = memory_stream_pair()
    reader: Any = (
        sockets.SocketStream(near, libp2p_host.build_closed_error)  # type: ignore[arg-type]
        if ours
        else TrioTCPStream(near)  # type: ignore[arg-type]
    )

    async def dribble() -> None:
        for _ in range(300):
            await far.send_all(b"x")
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dribble)
        if ours:
            assert await read_exactly(reader, 300) == b"x" * 300
        else:
            with pytest.raises(Exception, match="300"):
                await read_exactly(reader, 300)


@pytest.mark.parametrize("woken", [True, False])
async def test_a_reset_wakes_our_own_reader(monkeypatch: Any, woken: bool) -> None:
    if not woken:
        monkeypatch.setattr(stream_wire, "get_read_event", lambda _stream: trio.Event())
    server, client = Node(1), Node(2)
    async with running(server, client):
        wire = await client.host.open_wire(await client.dial(server), ECHO)
        ended: list[bool] = []

        async def read() -> None:
            with pytest.raises(WireClosed):
                await wire.read(10)
            ended.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(0.1)
            await wire.reset()
            await trio.sleep(0.2)
            assert bool(ended) is woken
            await wire.force_close()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("forced", [True, False])
async def test_a_stuck_write_ends_by_force(monkeypatch: Any, forced: bool) -> None:
    """The peer accepts bytes into its kernel and never reads them."""
    server, client = Node(1), Node(2)
    async with running(server, client):
        wire = await client.host.open_wire(await client.dial(server), ECHO)
        conn: Any = wire.connection
        sock = _find_socket(conn)
        blocked = trio.Event()

        async def never(_data: bytes) -> None:
            blocked.set()
            await sock.closed.wait()
            raise libp2p_host.build_closed_error("closed")

        monkeypatch.setattr(sock, "write", never)
        ended = trio.Event()

        async def write() -> None:
            with trio.CancelScope(shield=True), pytest.raises(WireClosed):
                await wire.write(b"x" * 1000)
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await blocked.wait()
            with trio.move_on_after(1.0) as scope:
                if forced:
                    await wire.force_close()
                else:
                    await conn.close()
            assert scope.cancelled_caught is not forced
            with trio.move_on_after(0.5):
                await ended.wait()
            assert ended.is_set() is forced
            await wire.force_close()


def _find_socket(conn: Any) -> sockets.SocketStream:
    layer = conn.muxed_conn.secured_conn
    for _ in range(10):
        if isinstance(layer, sockets.SocketStream):
            return layer
        for name in ("conn", "read_writer", "read_write_closer", "stream"):
            inner = getattr(layer, name, None)
            if inner is not None:
                layer = inner
                break
    raise AssertionError("no socket under the connection")


@pytest.mark.parametrize("watched", [True, False])
async def test_a_peer_that_ignores_its_window_is_closed(monkeypatch: Any, watched: bool) -> None:
    monkeypatch.setattr(stream_wire, "UNREAD_BYTES_MAX", 2 * 1024 * 1024)
    monkeypatch.setattr(connections, "WATCH_S", 0.05)
    if not watched:
        monkeypatch.setattr(connections, "has_too_much_unread", lambda _conn: False)
    server, client = Node(1), Node(2)

    async def ignore(_protocol: str, _wire: Any) -> None:
        await trio.sleep(10)

    object.__setattr__(server.host._owner, "take_stream", ignore)
    async with running(server, client):
        wire = await client.host.open_wire(await client.dial(server), ECHO)
        muxed: Any = wire._stream.muxed_stream  # type: ignore[attr-defined]

        async def flood() -> None:
            for _ in range(100):
                muxed.send_window = 2**31
                await wire.write(bytes(65000))
                await trio.sleep(0.01)

        if watched:
            with pytest.raises(WireClosed):
                await flood()
        else:
            await flood()
        assert bool(server.faults) is watched
        await wire.force_close()


@pytest.mark.parametrize("direct", [True, False])
async def test_a_failed_dial_is_not_remembered(direct: bool) -> None:
    """The library's ``connect`` refuses for a minute to dial again."""
    client, server = Node(2), Node(1)
    await server.host.bind(LOOPBACK)
    address = server.host.get_address()
    assert server.host.transport.bound is not None
    await server.host.transport.bound.aclose()
    async with running(client):
        peer = libp2p_host.ID.from_base58(server.peer_id)
        info = libp2p_host_info(peer, address.location)
        if direct:
            with pytest.raises(WireClosed):
                await client.host.dial(server.peer_id, address)
        else:
            with pytest.raises(Exception, match=r"unable to connect|fail|Fail"):
                await client.host._host.connect(info)
        async with trio.open_nursery() as nursery:
            await server.host.bind(address)
            ready = trio.Event()
            nursery.start_soon(server.host.run, ready, server.closing)
            await ready.wait()
            if direct:
                await client.host.dial(server.peer_id, address)
            else:
                with pytest.raises(Exception, match="negative cache"):
                    await client.host._host.connect(info)
            server.closing.set()


def libp2p_host_info(peer: Any, location: str) -> Any:
    from libp2p.peer.peerinfo import PeerInfo  # noqa: PLC0415

    return PeerInfo(peer, [libp2p_host.Multiaddr(location)])


@pytest.mark.parametrize("evicting", [True, False])
async def test_half_open_handshakes_do_not_shut_out_honest_peers(
    monkeypatch: Any, evicting: bool
) -> None:
    monkeypatch.setattr(sockets, "HALF_OPEN_MAX", 20 if evicting else 10**9)
    if not evicting:
        limits = libp2p_host.build_open_limits()
        limits["connection_config"].max_connections = 20
        monkeypatch.setattr(libp2p_host, "build_open_limits", lambda: limits)
    server, client = Node(1), Node(2)
    async with running(server, client):
        address = server.host.get_address()
        idle = [await trio.open_tcp_stream(address.host, address.port) for _ in range(40)]
        await trio.sleep(0.2)
        try:
            served = await client.call(server) == b"hello"
        except WireClosed:
            served = False
        for stream in idle:
            await stream.aclose()
        assert served is evicting


@pytest.mark.parametrize("started", [True, False])
async def test_a_connection_is_closed_from_a_task_of_its_own(
    monkeypatch: Any, started: bool
) -> None:
    """A notifee that waits for the close it asks for never returns."""
    server, client = Node(1), Node(2)
    server.objection = "not welcome"
    returned = trio.Event()

    async def connected(gate: Any, _network: Any, conn: Any) -> None:
        if gate._watch is not server.host._watch:
            return
        if started:
            gate._watch.judge(conn)
        else:
            await conn.close()
        returned.set()

    monkeypatch.setattr(libp2p_host.Gate, "connected", connected)
    async with running(server, client):
        client.objection = None
        with trio.move_on_after(1):
            with trio.move_on_after(0.5):
                await client.dial(server)
            await returned.wait()
        assert returned.is_set() is started


async def test_no_foreign_protocol_is_served() -> None:
    server, client = Node(1), Node(2)
    async with running(server, client):
        connection = await client.dial(server)
        for protocol in ("/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"):
            with pytest.raises(WireClosed):
                await client.host.open_wire(connection, protocol)


@pytest.mark.parametrize("only_ours", [True, False])
async def test_identify_is_off(monkeypatch: Any, only_ours: bool) -> None:
    if not only_ours:
        monkeypatch.setattr(libp2p_host, "serve_only", lambda _host: None)
    server, client = Node(1), Node(2)
    async with running(server, client):
        await client.dial(server)
        await trio.sleep(0.3)
        remembered = client.host._host.get_peerstore().peer_ids()
        assert (len(remembered) <= 1) is only_ours


async def test_one_yamux_frame_is_one_noise_packet() -> None:
    assert yamux.MAX_MESSAGE_SIZE == libp2p_host.YAMUX_FRAME_BYTES
    server, client = Node(1), Node(2)
    async with running(server, client):
        wire = await client.host.open_wire(await client.dial(server), ECHO)
        sock: Any = _find_socket(wire.connection)
        sizes: list[int] = []
        write = sock.write

        async def count(data: bytes) -> None:
            sizes.append(len(data))
            await write(data)

        sock.write = count
        await wire.write(bytes(65507))
        assert max(sizes) == 65537
        assert sum(size > 1000 for size in sizes) == 1
        await wire.force_close()


@pytest.mark.parametrize("closed_first", [True, False])
async def test_the_sockets_are_closed_at_the_end(monkeypatch: Any, closed_first: bool) -> None:
    if not closed_first:
        monkeypatch.setattr(libp2p_host.BasicHost, "close", _do_nothing)
        monkeypatch.setattr(SwarmConn, "close", _do_nothing)
        monkeypatch.setattr(sockets.Acceptor, "abort_all", lambda _acceptor: None)
    server, client = Node(1), Node(2)
    opened: list[sockets.SocketStream] = []
    init = sockets.SocketStream.__init__

    def remember(sock: sockets.SocketStream, *args: Any) -> None:
        init(sock, *args)
        opened.append(sock)

    monkeypatch.setattr(sockets.SocketStream, "__init__", remember)
    async with running(server):
        async with running(client):
            await client.dial(server)
        dialed = opened[0]
        assert dialed.closed.is_set() is closed_first
        for sock in opened:
            await sock.close()


async def _do_nothing(_self: Any) -> None:
    await trio.lowlevel.checkpoint()


class Drain(Node):
    """Echoes what is short, so that nobody needs to read what is long."""

    async def echo(self, _protocol: str, wire: Any) -> None:
        try:
            while True:
                data = await wire.read(65536)
                if len(data) < 100:
                    await wire.write(data)
        except WireClosed:
            pass


@pytest.mark.parametrize("shielded", [True, False])
async def test_a_cancelled_write_breaks_the_connection(shielded: bool) -> None:
    """Why every write is shielded: half a frame is never repaired."""
    server, client = Drain(1), Node(2)
    n_broken = 0
    async with running(server, client):
        # A write that was over, or had not begun, when it was cancelled shows nothing: once more.
        for attempt in range(8 if shielded else 80):
            wire = await client.host.open_wire(await client.dial(server), ECHO)
            for _ in range(6):
                with (
                    trio.move_on_after(0.0003 * (attempt % 4 + 1)) as scope,
                    trio.CancelScope(shield=shielded),
                ):
                    await wire.write(bytes(1 << 20))
                if scope.cancelled_caught:
                    break
            n_broken += not await _is_alive(client, wire.connection)
            await wire.force_close()
            if n_broken:
                break
    assert (n_broken == 0) is shielded


async def _is_alive(client: Node, connection: object) -> bool:
    try:
        with trio.move_on_after(1.5):
            wire: StreamWire = await client.host.open_wire(connection, ECHO)
            await wire.write(b"alive")
            return await wire.read(5) == b"alive"
    except WireClosed:
        pass
    return False


@pytest.mark.parametrize("batched", [True, False])
async def test_a_sender_gets_room_again_in_large_pieces(monkeypatch: Any, batched: bool) -> None:
    """Without the workaround nearly every read makes the library send a message."""
    if not batched:
        monkeypatch.setattr(stream_wire, "batch_window_updates", lambda _stream: None)
    updates = [0]
    send = yamux.YamuxStream.send_window_update

    async def count(*arguments: Any, **options: Any) -> None:
        updates[0] += 1
        await send(*arguments, **options)

    monkeypatch.setattr(yamux.YamuxStream, "send_window_update", count)
    server, client = Node(1), Node(2)
    data = os.urandom(8 << 20)
    async with running(server, client), trio.open_nursery() as nursery:
        wire = await client.host.open_wire(await client.dial(server), ECHO)
        nursery.start_soon(wire.write, data)
        received = bytearray()
        with trio.fail_after(30):
            while len(received) < len(data):
                received += await wire.read(65536)
        await wire.force_close()
    assert received == data
    # Both ways together: 16 MiB in pieces of at most 64 KiB, and half of a window of 256 KiB.
    assert (updates[0] <= 128 + 8) is batched


async def test_garbage_on_a_new_connection_harms_nobody() -> None:
    server, client = Node(1), Node(2)
    async with running(server, client):
        for size in (1, 100, 5000):
            stream = await trio.open_tcp_stream("127.0.0.1", server.host.get_address().port)
            async with stream:
                await stream.send_all(os.urandom(size))
        assert await client.call(server) == b"hello"


def test_the_resource_manager_is_open() -> None:
    manager = libp2p_host.build_open_limits()["resource_manager"]
    assert isinstance(manager, ResourceManager)
    assert manager.limits.max_connections == libp2p_host.OPEN_LIMIT
