"""Two large transactions with one nonce, given to two nodes: the lower hash stays, everywhere."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash

from node.mempool import PAYLOAD_JOURNALED_BYTES_MAX
from node.mempool.journal import Journal, JournalRecord, count_records
from node.mempool.rivals import PROTECTED_S, REPLACEMENTS_MAX
from store.database import MemoryDatabase
from tests.node.mempool.world import (
    KEYS,
    TASK,
    Ledger,
    World,
    hash_of,
    make_transfer,
    make_update,
    make_world,
)

ALICE, BOB = KEYS[:2]
LARGE = PAYLOAD_JOURNALED_BYTES_MAX + 1
OTHER_TASK = Hash(b"\x44" * 32)


@dataclass
class Counted:
    """Announcements as a test would have them."""

    announced: set[Hash] = field(default_factory=set)

    def is_announced(self, payload_hash: Hash) -> bool:
        return payload_hash in self.announced

    def start_block(self) -> Callable[[Hash], bool]:
        return self.is_announced


def make_rivals(
    count: int, *, nonce: int = 0, size: int = LARGE, task_id: Hash = TASK, fee: int = 0
) -> list[tuple[bytes, bytes]]:
    """Return updates of Alice with one nonce and their payloads, the highest hash first."""
    payloads = [bytes([number]) * size for number in range(1, 1 + count)]
    made = [(make_update(ALICE, nonce, each, task_id=task_id, fee=fee), each) for each in payloads]
    return sorted(made, key=_get_hash, reverse=True)


def _get_hash(rival: tuple[bytes, bytes]) -> Hash:
    return hash_of(rival[0])


def make_counting_world(
    journal: MemoryDatabase | None = None, ledger: Ledger | None = None
) -> tuple[World, Counted]:
    world = make_world(journal, ledger)
    counted = world.mempool.large.announced = Counted()
    return world, counted


def bring(world: World, payload: bytes) -> int:
    """Store a payload that was pulled, and tell the mempool."""
    payload_hash = compute_content_hash(payload)
    world.ledger.payloads[payload_hash] = payload
    return world.mempool.receive_payload(payload_hash)


def get_pending(world: World) -> list[bytes]:
    return [entry.raw for entry in world.mempool.iterate_older_than(0)]


async def test_a_lower_rival_replaces_once_its_payload_is_here_and_the_user_is_told() -> None:
    journal = MemoryDatabase()
    world, counted = make_counting_world(journal)
    (high, high_payload), (low, low_payload) = make_rivals(2)
    behind = make_transfer(ALICE, 1)
    await world.mempool.submit_local_many([(high, high_payload), (behind, None)])
    assert await world.mempool.receive_batch("peer", [(low, None)]) == 0
    assert world.wanted == [(compute_content_hash(low_payload), LARGE, "peer")]
    assert (get_pending(world), world.dropped) == ([high, behind], []), "it stays until then"
    assert bring(world, low_payload) == 1
    assert get_pending(world) == [behind, low]
    assert [(entry.raw, error.code) for entry, error in world.dropped] == [
        (high, ErrorCode.REPLACED)
    ]
    assert hash_of(low).hex() in world.dropped[0][1].message
    assert world.mempool.pending_nonce(ALICE.address) == 2
    # It is passed on, and named by a block once a quorum has announced it.
    assert [entry.raw for entry in world.mempool.take_outbox(1 << 20, 9)] == [behind, low]
    assert world.reap() == []
    counted.announced.add(compute_content_hash(low_payload))
    assert world.reap() == [low, behind]
    # The journal has forgotten the one that was replaced.
    again = make_world(journal, world.ledger)
    await again.mempool.restore()
    assert get_pending(again) == [behind]


async def test_nodes_that_were_given_different_rivals_come_to_hold_the_same() -> None:
    rivals = make_rivals(3)
    worlds = [make_counting_world()[0] for _ in rivals]
    for world, (raw, payload) in zip(worlds, rivals, strict=True):
        await world.mempool.submit_local(raw, payload)
    for world in worlds:
        await world.mempool.receive_batch("peer", rivals)
    assert [get_pending(world) for world in worlds] == [[rivals[-1][0]]] * 3
    assert [len(world.dropped) for world in worlds] == [2, 1, 0]


async def test_a_higher_rival_is_refused_and_not_remembered() -> None:
    world, _ = make_counting_world()
    high, low = make_rivals(2)
    await world.mempool.submit_local(*low)
    for _ in range(2):
        assert await world.mempool.receive_batch("peer", [high]) == 0
    assert world.mempool.refused[ErrorCode.WRONG_NONCE] == 2
    assert not world.mempool.has(hash_of(high[0])), "it is asked for when it is named again"
    assert get_pending(world) == [low[0]]
    assert not world.reports
    assert not world.dropped


async def test_a_small_one_neither_replaces_nor_is_replaced() -> None:
    small = make_rivals(1, size=10)[0]
    others = make_rivals(20)
    assert hash_of(others[-1][0]) < hash_of(small[0]) < hash_of(others[0][0])
    for other in others:
        for first, second in ((small, other), (other, small)):
            world, _ = make_counting_world()
            await world.mempool.submit_local(*first)
            assert await world.mempool.receive_batch("peer", [second]) == 0
            assert get_pending(world) == [first[0]]


async def test_what_a_quorum_has_announced_stays_for_a_while() -> None:
    world, counted = make_counting_world()
    high, low = make_rivals(2)
    await world.mempool.submit_local(*high)
    counted.announced.add(compute_content_hash(high[1]))
    world.now = PROTECTED_S - 0.1
    assert await world.mempool.receive_batch("peer", [low]) == 0
    assert get_pending(world) == [high[0]]
    assert not world.mempool.has(hash_of(low[0]))
    world.now = PROTECTED_S
    assert await world.mempool.receive_batch("peer", [low]) == 1
    assert get_pending(world) == [low[0]]


async def test_a_users_own_rival_is_refused_at_once() -> None:
    world, _ = make_counting_world()
    high, low = make_rivals(2)
    await world.mempool.submit_local(*high)
    # Its payload comes along, or was uploaded before.
    for given in (low[1], None):
        answer = (await world.mempool.submit_local_many([(low[0], given)]))[0]
        assert getattr(answer, "code", None) is ErrorCode.WRONG_NONCE
        world.ledger.payloads[compute_content_hash(low[1])] = low[1]
    assert get_pending(world) == [high[0]]


async def test_of_two_rivals_in_the_journal_the_lower_comes_back() -> None:
    # A power failure may bring back what was replaced, beside what replaced it.
    database = MemoryDatabase()
    high, low = make_rivals(2)
    await Journal(database).append([JournalRecord(raw, None) for raw, _ in (high, low)])
    ledger = Ledger(payloads={compute_content_hash(each): each for _, each in (high, low)})
    restored, _ = make_counting_world(database, ledger)
    assert await restored.mempool.restore() == 1
    assert get_pending(restored) == [low[0]]
    assert [(each.raw, error.code) for each, error in restored.dropped] == [
        (high[0], ErrorCode.REPLACED)
    ]
    assert count_records(database) == 1


async def test_replacements_of_a_nonce_are_limited() -> None:
    world, _ = make_counting_world()
    rivals = make_rivals(REPLACEMENTS_MAX + 2)
    for rival in rivals:
        await world.mempool.receive_batch("peer", [rival])
    assert get_pending(world) == [rivals[REPLACEMENTS_MAX][0]]
    assert len(world.dropped) == REPLACEMENTS_MAX
    # Another nonce is counted by itself.
    others = make_rivals(2, nonce=1, task_id=OTHER_TASK)
    for rival in others:
        await world.mempool.receive_batch("peer", [rival])
    assert get_pending(world)[-1] == others[-1][0]


async def test_a_later_update_of_the_same_task_makes_room_too() -> None:
    # Two nodes were given updates of two tasks in another order.
    world, _ = make_counting_world()
    high, low = make_rivals(2)
    first = (make_update(ALICE, 0, high[1], task_id=OTHER_TASK), high[1])
    if hash_of(first[0]) < hash_of(low[0]):
        low = (make_update(ALICE, 0, low[1], task_id=OTHER_TASK), low[1])
        first = high
    task_id = OTHER_TASK if first is high else TASK
    second = (make_update(ALICE, 1, bytes(LARGE), task_id=task_id), bytes(LARGE))
    behind = make_transfer(ALICE, 2)
    await world.mempool.submit_local_many([first, second, (behind, None)])
    assert await world.mempool.receive_batch("peer", [low]) == 1
    assert get_pending(world) == [behind, low[0]]
    assert [(each.raw, error.code) for each, error in world.dropped] == [
        (first[0], ErrorCode.REPLACED),
        (second[0], ErrorCode.REPLACED),
    ]
    assert world.mempool.pending_nonce(ALICE.address) == 1


@pytest.mark.parametrize("is_low_first", [True, False])
async def test_rivals_that_were_early_are_compared_when_their_turn_comes(
    is_low_first: bool,
) -> None:
    world, _ = make_counting_world()
    high, low = make_rivals(2, nonce=1)
    early = [low, high] if is_low_first else [high, low]
    await world.mempool.receive_batch("peer", early)
    assert world.mempool.held_count == 2
    first = make_transfer(ALICE, 0)
    await world.mempool.receive_batch("peer", [(first, None)])
    assert get_pending(world) == [first, low[0]]
    assert world.mempool.held_count == 0


async def test_a_rival_counts_in_the_place_of_what_it_replaces() -> None:
    world = make_world(per_sender_max=2, payload_bytes_max=4 * LARGE)
    world.mempool.large.announced = Counted()
    world.ledger.balances[ALICE.address] = 10
    high, low = make_rivals(2, fee=6)
    await world.mempool.submit_local_many([high, (make_transfer(ALICE, 1), None)])
    assert await world.mempool.receive_batch("peer", [low]) == 1
    assert world.mempool.count == 2
    # What finds no room has changed nothing.
    world = make_world(payload_bytes_max=LARGE)
    world.mempool.large.announced = Counted()
    high = make_rivals(1)[0]
    larger = make_rivals(64, size=LARGE + 1)[-1]
    assert hash_of(larger[0]) < hash_of(high[0])
    await world.mempool.submit_local(*high)
    assert await world.mempool.receive_batch("peer", [larger]) == 0
    assert world.mempool.refused[ErrorCode.MEMPOOL_FULL] == 1
    assert (get_pending(world), world.dropped) == ([high[0]], [])


async def test_a_rival_that_the_state_refuses_replaces_nothing() -> None:
    world, _ = make_counting_world()
    high = make_rivals(1)[0]
    await world.mempool.submit_local(*high)
    payloads = [b"bad" + bytes([number]) * LARGE for number in range(64)]
    bad = min(((make_update(ALICE, 0, each), each) for each in payloads), key=_get_hash)
    assert hash_of(bad[0]) < hash_of(high[0])
    assert await world.mempool.receive_batch("peer", [bad]) == 0
    assert (get_pending(world), world.dropped) == ([high[0]], [])
    assert await world.mempool.receive_batch("peer", [(make_transfer(BOB, 0), None)]) == 1
