"""Peers that mean harm, over real connections: they are refused or scored down, and no more."""

import os
from typing import Any

import pytest
import trio

from p2p import handshake
from p2p.address import parse_address, parse_peer_address
from p2p.frames import (
    Hello,
    Kind,
    build_addresses,
    build_frame,
    build_hello,
    build_message,
    build_request,
)
from p2p.libp2p_host import Host
from p2p.network import PeerId, Priority
from p2p.stream_wire import StreamWire
from p2p.wire import HostOwner
from tests.p2p import gossip_messages
from tests.p2p.conftest import Running, World, open_world, until

LINK = "/quorate/test-1/link/1"
REQUEST = "/quorate/test-1/request/1"
ANNOUNCE = "/meshsub/1.1.0"
HELLO = Hello(1, "test-1", bytes(32), 1, bytes(16), "")


@pytest.fixture
async def world() -> Any:
    async with open_world("libp2p") as opened:
        yield opened


class Stranger:
    """A host that follows no rules above the connection."""

    def __init__(self, index: int) -> None:
        self.closing = trio.Event()
        self.host = Host(
            index.to_bytes(32, "big"),
            (LINK, REQUEST),
            None,
            HostOwner(
                take_stream=self.ignore,
                get_objection=lambda _peer: None,
                is_used=lambda _connection: True,
                may_forward=lambda _peer: True,
                take_announcement=lambda _peer, _body: None,
                on_fault=lambda _peer, _reason: None,
            ),
        )
        self.peer_id = PeerId(str(self.host._host.get_id()))

    async def ignore(self, _protocol: str, _wire: Any) -> None:
        await trio.sleep_forever()

    async def start(self, world: World) -> None:
        ready = trio.Event()
        await self.host.bind(parse_address("/ip4/127.0.0.1/tcp/0"))
        world.nursery.start_soon(self.host.run, ready, self.closing)
        await ready.wait()

    async def open(self, victim: Running, protocol: str = LINK) -> StreamWire:
        connection = await self.host.dial(*parse_peer_address(victim.address))
        return await self.host.open_wire(connection, protocol)

    async def link(self, victim: Running) -> StreamWire:
        wire = await self.open(victim)
        await wire.write(build_hello(HELLO))
        await handshake.receive_hello(wire)
        await until(lambda: self.peer_id in victim.linked())
        return wire


async def meet(world: World, **settings: Any) -> tuple[Running, Running, Stranger]:
    """Two linked honest networks, and a stranger who knows the first."""
    victim = await world.start(1, **settings)
    honest = await world.start(2, persistent_peers=(victim.address,))
    stranger = Stranger(9)
    await stranger.start(world)
    await until(lambda: victim.linked() == {honest.peer_id})
    return victim, honest, stranger


async def assert_unharmed(victim: Running, honest: Running) -> None:
    assert honest.peer_id in victim.linked()
    assert honest.network.send(victim.peer_id, Priority.CONSENSUS, b"still here")
    await until(lambda: b"still here" in victim.node.bodies())


@pytest.mark.parametrize("protocol", [LINK, REQUEST, ANNOUNCE])
async def test_garbage_on_every_protocol(world: World, protocol: str) -> None:
    victim, honest, stranger = await meet(world, gossip=True)
    for size in (1, 50, 5000):
        wire = await stranger.open(victim, protocol)
        await wire.write(os.urandom(size))
        await trio.sleep(0.05)
        await wire.force_close()
    assert stranger.peer_id not in victim.node.connected
    await assert_unharmed(victim, honest)


@pytest.mark.parametrize(
    "first",
    [
        build_message(Priority.CONSENSUS, b"no handshake"),
        (2**31).to_bytes(4, "big") + b"\x01",
        build_frame(Kind.HELLO, b"\x96" * 50),
    ],
    ids=["message", "endless", "malformed"],
)
async def test_a_bad_handshake_is_held_against_the_peer(world: World, first: bytes) -> None:
    victim, honest, stranger = await meet(world)
    for _ in range(2):
        wire = await stranger.open(victim)
        await wire.write(first)
        await trio.sleep(0.1)
    scores = victim.network._scores  # type: ignore[attr-defined]
    assert scores.is_banned(stranger.peer_id, trio.current_time())
    assert victim.node.messages == []
    await assert_unharmed(victim, honest)


async def test_a_silent_handshake_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_S", 0.2)
    victim, honest, stranger = await meet(world)
    await stranger.open(victim)
    await until(lambda: stranger.host.count_connections() == 0, 2)
    await assert_unharmed(victim, honest)


async def test_a_linked_peer_that_breaks_the_protocol_is_banned(world: World) -> None:
    victim, honest, stranger = await meet(world)
    for _ in range(2):
        wire = await stranger.link(victim)
        await wire.write(build_frame(99, b"what is this"))
        await until(lambda: stranger.peer_id not in victim.linked())
    await trio.sleep(0.1)
    # Banned: the connection is closed before a stream can be used.
    with pytest.raises((handshake.HandshakeRefused, handshake.WireClosed, trio.TooSlowError)):
        with trio.fail_after(2):
            await stranger.link(victim)
    assert victim.node.disconnected.count(stranger.peer_id) == 2
    await assert_unharmed(victim, honest)


async def test_a_peer_that_does_not_answer_heartbeats_is_dropped(world: World) -> None:
    victim, honest, stranger = await meet(world)
    await stranger.link(victim)
    started = trio.current_time()
    await until(lambda: stranger.peer_id not in victim.linked(), 3)
    assert trio.current_time() - started > victim.config.peer_timeout_s - 0.2
    await assert_unharmed(victim, honest)


async def test_questions_without_a_link_are_not_answered(world: World) -> None:
    victim, honest, stranger = await meet(world)
    wire = await stranger.open(victim, REQUEST)
    await wire.write(build_request(1, 100, b"echo 1"))
    with pytest.raises(handshake.WireClosed), trio.fail_after(4):
        await wire.read(100)
    assert victim.node.requests == []
    await assert_unharmed(victim, honest)


async def test_addresses_nobody_asked_for_are_held_against_the_peer(world: World) -> None:
    victim, honest, stranger = await meet(world)
    wire = await stranger.link(victim)
    await wire.write(build_addresses((honest.address,)))
    await until(lambda: any(i.score < 100 for i in victim.network.peers()))
    await wire.write(build_frame(Kind.ASK_ADDRESSES) * 5)
    await until(lambda: stranger.peer_id not in victim.linked())
    await assert_unharmed(victim, honest)


async def test_more_streams_than_allowed_are_refused(world: World) -> None:
    victim, honest, stranger = await meet(world)
    wire = await stranger.open(victim)
    conn: Any = wire.connection
    for _ in range(200):
        try:
            await conn.new_stream()
        except Exception:  # noqa: BLE001 - the victim has closed the connection.
            break
    await trio.sleep(0.3)
    await assert_unharmed(victim, honest)
    for open_conn in victim.network._host._swarm.get_connections():  # type: ignore[attr-defined]
        assert len(open_conn.get_streams()) <= 70


async def test_both_dial_at_once_and_one_link_stays(world: World) -> None:
    low = await world.start(1)
    high = await world.start(2)
    for one, other in ((low, high), (high, low)):
        one.network.dial(other.address)
        # Without the turn of the lower peer id, both dial at the same moment.
        one.network._book._entries[other.peer_id].next_at = 0.0  # type: ignore[attr-defined]
    await until(lambda: bool(low.linked()) and bool(high.linked()))
    await trio.sleep(0.5)
    assert low.linked() == {high.peer_id}
    assert high.linked() == {low.peer_id}
    [at_low], [at_high] = low.network.peers(), high.network.peers()
    assert at_low.outbound is not at_high.outbound
    assert low.network.send(high.peer_id, Priority.CONSENSUS, b"one")
    assert high.network.send(low.peer_id, Priority.CONSENSUS, b"two")
    await until(lambda: high.node.bodies() == [b"one"] and low.node.bodies() == [b"two"])


async def test_peers_learn_of_each_other_but_not_of_private_ones(world: World) -> None:
    private, _ = world.make(3)
    middle = await world.start(1, peer_exchange=True, private_peers=(private.peer_id,))
    hidden = await world.start(3, persistent_peers=(middle.address,), peer_exchange=True)
    await until(lambda: hidden.peer_id in middle.linked())
    second = await world.start(2, bootstrap_peers=(middle.address,), peer_exchange=True)
    await until(lambda: second.peer_id in middle.linked())
    third = await world.start(4, bootstrap_peers=(middle.address,), peer_exchange=True)
    await until(lambda: third.linked() >= {middle.peer_id, second.peer_id})
    await trio.sleep(0.3)
    assert hidden.peer_id not in third.linked() | second.linked()


async def test_a_second_link_of_a_peer_replaces_its_first(world: World) -> None:
    victim, honest, stranger = await meet(world, peer_timeout_s=60)
    await stranger.link(victim)
    second = await stranger.open(victim)
    await second.write(build_hello(HELLO))
    # Its opener must have lost the first one: the newer link stays, and only one.
    await handshake.receive_hello(second)
    await trio.sleep(0.3)
    assert sorted(victim.linked()) == sorted({honest.peer_id, stranger.peer_id})
    assert victim.node.connected.count(stranger.peer_id) == 2
    assert victim.node.disconnected.count(stranger.peer_id) == 1


async def test_announcements_of_peers_without_a_link_are_dropped(world: World) -> None:
    victim, honest, stranger = await meet(world, gossip=True)
    topic = "/quorate/test-1/announce/1"
    wire = await stranger.open(victim, ANNOUNCE)
    message = gossip_messages.build_announcement(stranger.host, topic, b"unlinked")
    await wire.write(gossip_messages.build_frame(message))
    await trio.sleep(0.3)
    assert victim.node.announcements == []
    await stranger.link(victim)
    message = gossip_messages.build_announcement(stranger.host, topic, b"linked")
    await wire.write(gossip_messages.build_frame(message))
    await until(lambda: victim.node.announcements == [(stranger.peer_id, b"linked")])
    await assert_unharmed(victim, honest)
