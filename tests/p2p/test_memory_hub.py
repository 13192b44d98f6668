"""The switches of the network in memory, which the node's tests build on."""

from collections.abc import AsyncIterator

import pytest
import trio

from p2p.network import Priority, RequestTimedOut
from tests.p2p.conftest import World, open_world, until


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world("memory") as opened:
        yield opened


async def test_a_partition_cuts_links_and_heals(world: World) -> None:
    one, second, third = await world.start_linked(3)
    world.hub.partition([one.peer_id], [second.peer_id])
    await until(lambda: not one.linked() and not second.linked() and not third.linked())
    assert sorted(one.node.disconnected) == sorted([second.peer_id, third.peer_id])
    await trio.sleep(0.2)
    assert one.linked() == set()
    world.hub.partition([one.peer_id])
    await until(lambda: second.linked() == {third.peer_id})
    assert one.linked() == set()
    world.hub.heal()
    await until(lambda: all(len(r.linked()) == 2 for r in (one, second, third)))


async def test_a_frozen_node_is_silent_until_its_links_time_out(world: World) -> None:
    one, other = await world.start_linked(2, peer_timeout_s=0.5)
    world.hub.freeze(other.peer_id)
    one.network.send(other.peer_id, Priority.MEMPOOL, b"unheard")
    with pytest.raises(RequestTimedOut):
        await one.network.request(other.peer_id, b"echo 1", response_bytes_max=9, timeout_s=0.1)
    assert other.peer_id in one.linked()
    await until(lambda: one.node.disconnected == [other.peer_id], 2)
    assert other.node.messages == []
    world.hub.thaw(other.peer_id)
    await until(lambda: one.linked() == {other.peer_id})


async def test_a_rule_drops_messages(world: World) -> None:
    one, other = await world.start_linked(2)
    world.hub.drop = lambda sender, receiver, priority, body: (
        sender == one.peer_id
        and receiver == other.peer_id
        and priority is Priority.CONSENSUS
        and body == b"lost"
    )
    for body in (b"first", b"lost", b"last"):
        one.network.send(other.peer_id, Priority.CONSENSUS, body)
    other.network.send(one.peer_id, Priority.CONSENSUS, b"lost")
    await until(lambda: other.node.bodies() == [b"first", b"last"])
    await until(lambda: one.node.bodies() == [b"lost"])


async def test_latency_delays_every_message(world: World) -> None:
    one, other = await world.start_linked(2)
    world.hub.latency_s = 0.1
    started = trio.current_time()
    one.network.send(other.peer_id, Priority.CONSENSUS, b"x")
    await until(lambda: bool(other.node.messages))
    assert trio.current_time() - started >= 0.1
