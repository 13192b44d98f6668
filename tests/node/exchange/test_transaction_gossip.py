"""Pending transactions on their way between nodes: batches, relays, announcements, pulls."""

# The fixture `autojump_clock` works by being asked for.
# ruff: noqa: ARG001

from typing import Any

import trio
from quorate.chain.ids import Hash
from quorate.chain.transaction import Transfer

from node.config import MempoolSection
from node.exchange.broadcasting import Broadcaster
from node.exchange.messages import (
    GetTransactions,
    PendingHashesMessage,
    TransactionEntry,
    TransactionsMessage,
    compute_neighbour,
    decode_message,
    decode_request,
    encode_message,
)
from node.exchange.transaction_gossip import (
    ANNOUNCE_AGAIN,
    BATCHES_QUEUED_BYTES_MAX,
    BATCHES_QUEUED_MAX,
    PULLS_PER_PEER_MAX,
    SILENCE_PENALTY,
    TransactionGossip,
)
from node.execution.admission import LedgerDoor
from node.mempool.mempool import Mempool
from p2p.network import PeerId, Priority, RequestTimedOut
from tests.node.cluster import USERS, make_genesis
from tests.node.exchange.scripted import Answer, ScriptedNetwork
from tests.node.execution.chain import Entry, ExecutionChain

A, B = PeerId("a"), PeerId("b")
CONFIG = MempoolSection(gossip_interval_ms=10, announce_after_ms=1000)


class World:
    """A mempool and its gossip, over scripted peers."""

    def __init__(self, **answers: Answer) -> None:
        self.chain = ExecutionChain(make_genesis())
        self.network = ScriptedNetwork(**answers)
        seam: Any = self.network
        door = LedgerDoor(
            self.chain.executor,
            self.chain.store,
            self.chain.payloads,
            lambda: self.chain.next_time_ms,
        )
        self.mempool = Mempool(
            CONFIG,
            self.chain.genesis.chain_id,
            door,
            None,
            trio.current_time,
            report=lambda peer, penalty, reason: self.network.report(PeerId(peer), penalty, reason),
        )
        self.broadcaster = Broadcaster(seam)
        for peer in answers:
            self.broadcaster.on_peer_connected(PeerId(peer))
        self.gossip = TransactionGossip(
            seam, self.mempool, self.chain.payloads, self.broadcaster, CONFIG
        )

    def transfers(self, count: int, user: int = 0) -> list[Entry]:
        return [self.chain.make_entry(user, Transfer(USERS[7].address, 1)) for _ in range(count)]


def entries_of(entries: list[Entry]) -> tuple[TransactionEntry, ...]:
    return tuple(TransactionEntry(raw, None) for _, raw, _ in entries)


def serve(entries: list[Entry]) -> Answer:
    held = {name: raw for name, raw, _ in entries}

    async def answer(body: bytes) -> bytes:
        request = decode_request(body)
        assert isinstance(request, GetTransactions)
        found = [TransactionEntry(held[name], None) for name in request.hashes if name in held]
        return encode_message(TransactionsMessage(tuple(found)))

    return answer


async def be_silent(_body: bytes) -> bytes:
    await trio.sleep(5)
    raise RequestTimedOut("no answer")


async def run_for(world: World, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await world.gossip.run()


async def test_what_users_submit_goes_to_all_and_once(autojump_clock: object) -> None:
    world = World(a=be_silent, b=be_silent)
    entries = world.transfers(3)
    for _, raw, _ in entries:
        await world.mempool.submit_local(raw, None)
    await run_for(world, 0.5)
    ((priority, body),) = world.network.broadcasts
    assert priority is Priority.MEMPOOL
    assert decode_message(body) == TransactionsMessage(entries_of(entries))
    assert world.network.sent == []


async def test_a_peers_batch_goes_to_those_it_does_not_reach(autojump_clock: object) -> None:
    world = World(a=be_silent, b=be_silent)
    first, second = world.transfers(2)
    world.gossip.receive(A, entries_of([first]))
    await run_for(world, 0.5)
    assert [peer for peer, _, _ in world.network.sent] == [B]
    world.broadcaster.on_neighbours(A, frozenset([compute_neighbour(B)]))
    world.gossip.receive(A, entries_of([second]))
    await run_for(world, 0.5)
    assert len(world.network.sent) == 1
    assert world.mempool.count == 2
    assert world.network.broadcasts == []


async def test_batches_that_wait_are_bounded_in_number_and_bytes() -> None:
    world = World(a=be_silent)
    small = entries_of(world.transfers(1))
    for _ in range(BATCHES_QUEUED_MAX + 2):
        world.gossip.receive(A, small)
    assert world.gossip.dropped_batches == 2
    other = World(a=be_silent)
    large = (TransactionEntry(b"t" * 60_000, b"p" * 60_000),) * 8
    fitting = BATCHES_QUEUED_BYTES_MAX // (8 * 120_000)
    for _ in range(fitting + 3):
        other.gossip.receive(A, large)
    assert other.gossip.dropped_batches == 3


async def test_a_bad_batch_is_reported_and_makes_room_again(autojump_clock: object) -> None:
    world = World(a=be_silent)
    for _ in range(BATCHES_QUEUED_MAX):
        world.gossip.receive(A, (TransactionEntry(b"garbage", None),))
    await run_for(world, 1)
    assert {peer for peer, _, _ in world.network.reports} == {A}
    assert world.mempool.count == 0
    world.gossip.receive(B, entries_of(world.transfers(1)))
    await run_for(world, 1)
    assert world.mempool.count == 1
    assert world.gossip.dropped_batches == 0


async def test_what_waits_for_long_is_announced_and_again_later(autojump_clock: object) -> None:
    world = World(a=be_silent)
    entries = world.transfers(2)
    for _, raw, _ in entries:
        await world.mempool.submit_local(raw, None)
    await run_for(world, 0.9)
    assert world.network.announced == []
    await run_for(world, ANNOUNCE_AGAIN - 0.5)
    hashes = PendingHashesMessage(tuple(name for name, _, _ in entries))
    assert [decode_message(body) for body in world.network.announced] == [hashes]
    assert (Priority.MEMPOOL, world.network.announced[0]) in world.network.broadcasts
    world.network.announced.clear()
    await run_for(world, 2 * ANNOUNCE_AGAIN)
    assert 1 <= len(world.network.announced) <= 3


async def test_what_is_announced_and_unknown_is_pulled(autojump_clock: object) -> None:
    world = World(a=be_silent)
    entries = world.transfers(3)
    world.network.answers["a"] = serve(entries)
    await world.mempool.submit_local(entries[0][1], None)
    names = [name for name, _, _ in entries]
    world.gossip.receive_hashes(A, names)
    world.gossip.receive_hashes(A, names[:1])  # Known: nobody is asked.
    await run_for(world, 0.5)
    assert world.mempool.count == 3
    requests = [decode_request(body) for _, body in world.network.requests]
    assert requests == [GetTransactions((names[1], names[2]))]


async def test_one_who_announces_and_never_answers_holds_nobody_up(
    autojump_clock: object,
) -> None:
    world = World(a=be_silent, b=be_silent)
    entries = world.transfers(1)
    world.network.answers["b"] = serve(entries)
    for number in range(200):
        world.gossip.receive_hashes(A, [Hash(number.to_bytes(32, "big"))])
    world.gossip.receive_hashes(B, [entries[0][0]])
    await run_for(world, 5.0 * PULLS_PER_PEER_MAX + 1)
    assert world.mempool.count == 1
    assert [report[:2] for report in world.network.reports] == [
        (A, SILENCE_PENALTY)
    ] * PULLS_PER_PEER_MAX
    assert world.gossip.dropped_batches == 200 - PULLS_PER_PEER_MAX
    # Its turn comes again.
    world.gossip.receive_hashes(A, [Hash(bytes(32))])
    await run_for(world, 1)
    assert world.network.requests[-1][0] == A


async def test_a_malformed_answer_is_reported(autojump_clock: object) -> None:
    async def garble(_body: bytes) -> bytes:
        return b"\xc1"

    world = World(a=garble)
    world.gossip.receive_hashes(A, [Hash(bytes(32))])
    await run_for(world, 1)
    assert [peer for peer, _, _ in world.network.reports] == [A]


async def test_what_is_pending_can_be_pulled_from_here() -> None:
    world = World()
    entry = world.transfers(1)[0]
    assert world.gossip.get_entry(entry[0]) is None
    await world.mempool.submit_local(entry[1], None)
    assert world.gossip.get_entry(entry[0]) == TransactionEntry(entry[1], None)
