"""What every network keeps, in memory and over libp2p."""

import pytest
import trio

from p2p.network import (
    ANNOUNCEMENT_BYTES_MAX,
    BODY_BYTES_MAX,
    QUEUE_BYTES_MAX,
    QUEUE_MESSAGES_MAX,
    REQUEST_BYTES_MAX,
    REQUESTS_OUTSTANDING_MAX,
    ListenError,
    PeerGone,
    PeerId,
    Priority,
    RequestRejected,
    RequestTimedOut,
    RequestTooLarge,
    TooManyRequests,
)
from tests.p2p.conftest import Recorder, Running, World, until


async def test_four_networks_link(world: World) -> None:
    running = await world.start_linked(4)
    for one in running:
        others = {other.peer_id for other in running} - {one.peer_id}
        assert one.linked() == others
        assert set(one.node.connected) - set(one.node.disconnected) <= others
        assert [info.peer_id for info in one.network.peers()] == sorted(others)


async def test_a_link_needs_only_one_side_to_know_the_other(world: World) -> None:
    for low, high in ((1, 2), (4, 3)):
        one = await world.start(low)
        other = await world.start(high, persistent_peers=(one.address,))
        await until(lambda a=one, b=other: a.linked() == {b.peer_id})


async def test_messages_arrive_whole_and_in_order(world: World) -> None:
    one, other = await world.start_linked(2)
    sizes = (0, 1, 65507, 65536, 300_000, BODY_BYTES_MAX)
    for priority in Priority:
        for size in sizes:
            body = bytes([size % 251]) * size
            await until(lambda b=body, p=priority: one.network.send(other.peer_id, p, b))
    for priority in Priority:
        await until(lambda p=priority: len(other.node.bodies(p)) == len(sizes))
        assert [len(body) for body in other.node.bodies(priority)] == list(sizes)
    assert all(m[0] == one.peer_id for m in other.node.messages)


async def test_broadcast_reaches_all_but_the_excluded(world: World) -> None:
    one, second, third, fourth = await world.start_linked(4)
    excluded = frozenset({third.peer_id})
    assert one.network.broadcast(Priority.MEMPOOL, b"news", excluded) == 2
    await until(lambda: second.node.bodies() == [b"news"] and fourth.node.bodies() == [b"news"])
    assert third.node.bodies() == []


async def test_consensus_overtakes_queued_bulk(world: World) -> None:
    one, other = await world.start_linked(2, bulk_bytes_per_s_max=2_000_000)
    n_bulk = 20
    for index in range(n_bulk):
        assert one.network.send(other.peer_id, Priority.BULK, bytes([index]) * 100_000)
    assert one.network.send(other.peer_id, Priority.MEMPOOL, b"transactions")
    assert one.network.send(other.peer_id, Priority.CONSENSUS, b"vote")
    await until(lambda: len(other.node.messages) == n_bulk + 2)
    order = [message[1] for message in other.node.messages]
    assert order == sorted(order)


async def test_status_rides_on_heartbeats(world: World) -> None:
    one, other = await world.start_linked(2, heartbeat_s=0.05)
    one.node.status = b"height 7"
    await until(lambda: (one.peer_id, b"height 7") in other.node.statuses)
    await until(lambda: one.network.peers()[0].latency_ms is not None)


async def test_status_now_does_not_wait_for_the_heartbeat(world: World) -> None:
    one, other = await world.start_linked(2, heartbeat_s=60, peer_timeout_s=120)
    one.node.status = b"now"
    for _ in range(5):
        one.network.send_status_now()
    await until(lambda: (one.peer_id, b"now") in other.node.statuses, 2)
    await trio.sleep(0.1)
    assert other.node.statuses.count((one.peer_id, b"now")) == 1


async def test_requests_are_answered(world: World) -> None:
    one, other = await world.start_linked(2)

    async def ask(what: int) -> None:
        body = b"echo %d" % what
        answer = await one.network.request(other.peer_id, body, response_bytes_max=100, timeout_s=5)
        assert answer == b"%d" % what
        answered.append(what)

    answered: list[int] = []
    async with trio.open_nursery() as nursery:
        for what in range(REQUESTS_OUTSTANDING_MAX):
            nursery.start_soon(ask, what)
    assert sorted(answered) == list(range(REQUESTS_OUTSTANDING_MAX))
    answer = await one.network.request(
        other.peer_id, b"large 1048576", response_bytes_max=1048576, timeout_s=5
    )
    assert answer == bytes(1048576)
    assert other.node.requests[0][0] == one.peer_id


async def test_requests_fail_with_their_reason(world: World) -> None:
    one, other = await world.start_linked(2)

    async def ask(body: bytes, peer: PeerId = other.peer_id) -> bytes:
        return await one.network.request(peer, body, response_bytes_max=99, timeout_s=0.3)

    with pytest.raises(RequestRejected, match="no such thing here"):
        await ask(b"nonsense")
    with pytest.raises(RequestTooLarge):
        await ask(b"large 100")
    with pytest.raises(RequestTooLarge):
        await ask(bytes(REQUEST_BYTES_MAX + 1))
    with pytest.raises(RequestTimedOut):
        await ask(b"sleep 1")
    with pytest.raises(PeerGone):
        await ask(b"echo 1", PeerId("12D3KooWNobody"))
    # A late answer harms neither side, and the next request works.
    await trio.sleep(1)
    assert await ask(b"echo 1") == b"1"
    assert one.network.peers()[0].score == 100


async def test_more_requests_than_allowed_fail_at_once(world: World) -> None:
    one, other = await world.start_linked(2)
    answered: list[bytes] = []
    n_answered_before_failure: list[int] = []

    async def ask() -> None:
        try:
            answer = await one.network.request(
                other.peer_id, b"sleep 0.2", response_bytes_max=9, timeout_s=30
            )
        except TooManyRequests:
            n_answered_before_failure.append(len(answered))
        else:
            answered.append(answer)

    async with trio.open_nursery() as nursery:
        for _ in range(REQUESTS_OUTSTANDING_MAX + 1):
            nursery.start_soon(ask)
    assert n_answered_before_failure == [0]
    assert len(answered) == REQUESTS_OUTSTANDING_MAX


async def test_a_request_ends_when_its_peer_stops(world: World) -> None:
    one, other = await world.start_linked(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_later, other)
        with pytest.raises(PeerGone):
            await one.network.request(
                other.peer_id, b"sleep 60", response_bytes_max=9, timeout_s=30
            )
    await until(lambda: one.node.disconnected == [other.peer_id])


async def _stop_later(running: Running) -> None:
    await trio.sleep(0.2)
    running.network.stop()


@pytest.mark.parametrize(
    "setting",
    [{"chain_id": "other"}, {"genesis_hash": bytes([1]) * 32}, {"protocol_version": 2}],
)
async def test_a_node_of_another_chain_is_refused(world: World, setting: dict[str, object]) -> None:
    one = await world.start(1)
    stranger = await world.start(2, persistent_peers=(one.address,), **setting)
    await trio.sleep(1.0)
    assert one.node.connected == []
    assert stranger.node.connected == []


async def test_only_listed_peers_link_in_permissioned_mode(world: World) -> None:
    friend, _ = world.make(2)
    one = await world.start(1, allowed_peers=frozenset({friend.peer_id}))
    stranger = await world.start(3, persistent_peers=(one.address,))
    await trio.sleep(0.3)
    listed = await world.start(2, persistent_peers=(one.address,))
    await until(lambda: one.linked() == {listed.peer_id})
    assert stranger.node.connected == []


async def test_limits_of_peers_spare_the_unconditional(world: World) -> None:
    special, _ = world.make(9)
    one = await world.start(1, peers_max=2, unconditional_peers=(special.peer_id,))
    others = [await world.start(i, persistent_peers=(one.address,)) for i in (2, 3, 4)]
    await until(lambda: len(one.linked()) == 2)
    late = await world.start(9, persistent_peers=(one.address,))
    await until(lambda: late.peer_id in one.linked())
    await trio.sleep(0.5)
    assert len(one.linked()) == 3
    assert sum(other.linked() == {one.peer_id} for other in others) == 2


async def test_limit_of_peers_per_address(world: World) -> None:
    one = await world.start(1, peers_per_address_max=1)
    for index in (2, 3):
        await world.start(index, persistent_peers=(one.address,))
    await until(lambda: len(one.linked()) == 1)
    await trio.sleep(0.7)
    assert len(one.linked()) == 1


async def test_a_stopped_node_links_again(world: World) -> None:
    one, other = await world.start_linked(2)
    address = other.address
    await world.stop(other)
    await until(lambda: one.linked() == set())
    listen = address.partition("/p2p/")[0]
    again = await world.start(2, listen=listen, persistent_peers=(one.address,))
    await until(lambda: one.linked() == {again.peer_id} and again.linked() == {one.peer_id})
    assert one.network.send(again.peer_id, Priority.CONSENSUS, b"welcome")
    await until(lambda: again.node.bodies() == [b"welcome"])


async def test_a_persistent_peer_is_dialed_until_it_appears(world: World) -> None:
    first = await world.start(2)
    address = first.address
    await world.stop(first)
    one = await world.start(1)
    one.network.dial(address)
    await trio.sleep(0.5)
    late = await world.start(2, listen=address.partition("/p2p/")[0])
    await until(lambda: one.linked() == {late.peer_id})


async def test_dial_refuses_what_is_no_address(world: World) -> None:
    network, _ = world.make(1)
    for text in ("", "nonsense", "/ip4/127.0.0.1/tcp/1", "/ip4/1.2.3/tcp/1/p2p/x"):
        with pytest.raises(ValueError, match=r"address|host|lacks"):
            network.dial(text)


async def test_a_port_in_use_is_told_in_a_sentence(world: World) -> None:
    one = await world.start(1)
    network, _ = world.make(2, listen=one.address.partition("/p2p/")[0])
    with pytest.raises(ListenError, match=r"port is in use"):
        await network.run(one.node)


async def test_bodies_over_their_limits_are_refused(world: World) -> None:
    network, _ = world.make(1)
    with pytest.raises(ValueError, match="at most"):
        network.send(PeerId("x"), Priority.BULK, bytes(BODY_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="at most"):
        network.broadcast(Priority.BULK, bytes(BODY_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="at most"):
        network.announce(bytes(ANNOUNCEMENT_BYTES_MAX + 1))


@pytest.mark.parametrize("priority", [Priority.MEMPOOL, Priority.BULK])
async def test_a_full_queue_drops_messages_and_keeps_the_link(
    world: World, priority: Priority
) -> None:
    one, other = await world.start_linked(2)
    n_max = QUEUE_MESSAGES_MAX[priority]
    taken = [one.network.send(other.peer_id, priority, b"x") for _ in range(n_max + 1)]
    assert taken == [True] * n_max + [False]
    await until(lambda: len(other.node.messages) == n_max)
    n_large = QUEUE_BYTES_MAX[priority] // BODY_BYTES_MAX
    taken = [
        one.network.send(other.peer_id, priority, bytes(BODY_BYTES_MAX)) for _ in range(n_large + 1)
    ]
    assert taken == [True] * n_large + [False]
    assert one.linked() == {other.peer_id}


async def test_a_full_consensus_queue_closes_the_link(world: World) -> None:
    one, other = await world.start_linked(2)
    n_max = QUEUE_MESSAGES_MAX[Priority.CONSENSUS]
    for _ in range(n_max):
        assert one.network.send(other.peer_id, Priority.CONSENSUS, b"x")
    assert not one.network.send(other.peer_id, Priority.CONSENSUS, b"x")
    assert not one.network.send(other.peer_id, Priority.MEMPOOL, b"x")
    await until(lambda: one.node.disconnected == [other.peer_id])
    # The peer is not to blame for long: it links again.
    await until(lambda: one.linked() == {other.peer_id})


async def test_a_ban_disconnects_and_expires(world: World) -> None:
    one = await world.start(1, ban_s=1.0)
    other = await world.start(2, persistent_peers=(one.address,))
    await until(lambda: one.linked() == {other.peer_id})
    one.network.report(other.peer_id, 60, "a bad message")
    assert one.network.peers()[0].score == 40
    one.network.report(other.peer_id, 40, "another")
    await until(lambda: one.linked() == set(), 2)
    await trio.sleep(0.4)
    assert one.linked() == set()
    await until(lambda: one.linked() == {other.peer_id})
    assert one.network.peers()[0].score >= 50


async def test_an_unconditional_peer_is_never_banned(world: World) -> None:
    special, _ = world.make(2)
    one = await world.start(1, unconditional_peers=(special.peer_id,))
    other = await world.start(2, persistent_peers=(one.address,))
    await until(lambda: one.linked() == {other.peer_id})
    one.network.report(other.peer_id, 1000, "whatever")
    await trio.sleep(0.3)
    assert one.linked() == {other.peer_id}
    assert one.node.disconnected == []


async def test_announcements_spread_beyond_direct_links(world: World) -> None:
    one = await world.start(1, gossip=True)
    middle = await world.start(2, gossip=True, persistent_peers=(one.address,))
    far = await world.start(3, gossip=True, persistent_peers=(middle.address,))
    await until(lambda: len(middle.linked()) == 2)
    assert one.peer_id not in far.linked()
    n_sent = 0
    with trio.fail_after(10):
        while not far.node.announcements:
            one.network.announce(b"news %d" % n_sent)
            n_sent += 1
            await trio.sleep(0.2)
    assert far.node.announcements[0][0] == middle.peer_id
    assert far.node.announcements[0][1].startswith(b"news")
    assert middle.node.announcements[0][0] == one.peer_id
    assert one.node.announcements == []


async def test_without_gossip_an_announcement_goes_nowhere(world: World) -> None:
    one, other = await world.start_linked(2)
    one.network.announce(b"news")
    await trio.sleep(0.3)
    assert other.node.announcements == []
    assert one.linked() == {other.peer_id}


async def test_stop_is_orderly_and_quick(world: World) -> None:
    one, other = await world.start_linked(2, gossip=True)
    assert one.network.send(other.peer_id, Priority.CONSENSUS, b"last words")
    started = trio.current_time()
    await world.stop(one)
    assert trio.current_time() - started < 3
    await until(lambda: other.node.disconnected == [one.peer_id], 1)
    assert one.node.disconnected == [other.peer_id]
    assert one.network.peers() == ()
    assert not one.network.send(other.peer_id, Priority.CONSENSUS, b"x")


async def test_cancelling_run_stops_in_order(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "p2p")
    one = await world.start(1)
    network, _ = world.make(2, persistent_peers=(one.address,))
    with trio.move_on_after(5) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.run, Recorder())
            await until(lambda: len(network.peers()) == 1)
            started = trio.current_time()
            nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert trio.current_time() - started < 3
    await until(lambda: one.linked() == set(), 1)
    if world.kind == "libp2p":
        assert f"peer {network.peer_id} says goodbye" in caplog.text


async def test_a_defect_of_the_node_ends_the_network(world: World) -> None:
    def fail(_body: bytes) -> None:
        raise ZeroDivisionError("a defect of the node")

    other = await world.start(2)
    network, _ = world.make(1, persistent_peers=(other.address,))

    async def send() -> None:
        await until(lambda: other.linked() == {network.peer_id})
        other.network.send(network.peer_id, Priority.MEMPOOL, b"boom")

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.run, Recorder(on_body=fail))
            nursery.start_soon(send)
    assert caught.value.split(ZeroDivisionError)[1] is None
