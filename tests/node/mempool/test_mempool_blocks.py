"""The mempool and blocks: what they take, in which order, and what they make impossible."""

import pytest
import trio
import trio.testing
from quorate.chain.errors import ErrorCode, TransactionError

from node.mempool.pool import ENTRY_OVERHEAD_BYTES
from node.mempool.settlement import RECHECKS_PER_UPDATE_MAX
from tests.node.mempool.world import KEYS, make_transfer, make_update, make_world

ALICE, BOB, CAROL = KEYS[:3]


async def test_reap_keeps_arrival_and_nonces() -> None:
    world = make_world()
    order = [(ALICE, 0), (BOB, 0), (ALICE, 1), (CAROL, 0), (BOB, 1), (ALICE, 2)]
    raws = [make_transfer(key, nonce) for key, nonce in order]
    await world.mempool.submit_local_many([(raw, None) for raw in raws])
    assert world.reap() == raws
    assert world.reap(count_max=4) == raws[:4]
    size = len(raws[0]) + ENTRY_OVERHEAD_BYTES
    assert world.reap(bytes_max=3 * size) == raws[:3]
    assert world.reap(bytes_max=3 * size - 1) == raws[:2]
    assert world.reap(count_max=0) == []


async def test_one_that_does_not_fit_holds_up_its_sender_alone() -> None:
    world = make_world()
    large = make_transfer(ALICE, 0, 2**40)
    world.ledger.balances[ALICE.address] = 2**50
    small = [make_transfer(ALICE, 1), make_transfer(BOB, 0)]
    assert len(large) > len(small[0])
    await world.mempool.submit_local_many([(raw, None) for raw in [large, *small]])
    assert world.reap(bytes_max=len(small[1]) + ENTRY_OVERHEAD_BYTES) == [small[1]]


async def test_a_gap_holds_back_what_is_behind_it_until_it_closes() -> None:
    world = make_world()
    raws = [make_transfer(ALICE, nonce) for nonce in range(4)]
    await world.mempool.submit_local_many([(raw, None) for raw in raws])
    assert world.mempool.ready_count == 4
    error = TransactionError(ErrorCode.NOT_ADMITTED, "no longer a member")
    assert world.take_out(raws[1], error)
    assert not world.take_out(raws[1], error)
    assert [(entry.raw, why) for entry, why in world.dropped] == [(raws[1], error)]
    assert world.reap() == raws[:1]
    assert (world.mempool.count, world.mempool.ready_count) == (3, 1)
    assert world.mempool.pending_nonce(ALICE.address) == 1
    other = make_transfer(BOB, 0)
    filler = make_transfer(ALICE, 1, 7)
    await world.mempool.submit_local_many([(other, None), (filler, None)])
    assert world.reap() == [raws[0], other, filler, raws[2], raws[3]]
    assert world.mempool.ready_count == 5


async def test_a_block_removes_what_it_holds_and_what_it_made_impossible() -> None:
    world = make_world()
    raws = [make_transfer(ALICE, nonce) for nonce in range(3)]
    await world.mempool.submit_local_many([(raw, None) for raw in raws])
    rival = make_transfer(ALICE, 1, 500)
    world.decide([raws[0], rival])
    assert world.reap() == [raws[2]]
    assert [(entry.raw, error.code) for entry, error in world.dropped] == [
        (raws[1], ErrorCode.WRONG_NONCE)
    ]
    assert (world.mempool.count, world.mempool.ready_count) == (1, 1)
    assert world.mempool.bytes_total == len(raws[2])


async def test_a_block_of_strangers_touches_every_sender_unless_told_whom() -> None:
    for senders in (None, [ALICE.address]):
        world = make_world()
        raw = make_transfer(ALICE, 0)
        await world.mempool.submit_local(raw, None)
        world.decide([make_transfer(ALICE, 0, 9)], senders=senders)
        assert world.mempool.count == 0
        assert [error.code for _, error in world.dropped] == [ErrorCode.WRONG_NONCE]


async def test_a_block_that_empties_an_account_drops_the_last_ones() -> None:
    world = make_world()
    world.ledger.balances[ALICE.address] = 100
    raws = [make_transfer(ALICE, nonce, 25) for nonce in range(4)]
    await world.mempool.submit_local_many([(raw, None) for raw in raws])
    rival = make_transfer(ALICE, 0, 50)
    world.decide([rival])
    assert world.reap() == raws[1:3]
    codes = [(entry.raw, error.code) for entry, error in world.dropped]
    assert codes == [
        (raws[0], ErrorCode.WRONG_NONCE),
        (raws[3], ErrorCode.INSUFFICIENT_BALANCE),
    ]


async def test_a_closed_training_round_drops_its_updates_alone() -> None:
    world = make_world()
    update, transfer = make_update(ALICE, 0, b"payload"), make_transfer(BOB, 0)
    await world.mempool.submit_local_many([(update, b"payload"), (transfer, None)])
    world.ledger.training_round = 1
    checks = world.ledger.checks
    world.decide([])
    assert world.reap() == [update, transfer]
    assert world.ledger.checks == checks
    world.decide([], has_closed_training_round=True)
    assert world.reap() == [transfer]
    assert world.ledger.checks == checks + 1
    assert [error.code for _, error in world.dropped] == [ErrorCode.WRONG_TRAINING_ROUND]


async def test_rechecks_after_one_block_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RECHECKS_PER_UPDATE_MAX == 1_000
    monkeypatch.setattr("node.mempool.settlement.RECHECKS_PER_UPDATE_MAX", 2)
    world = make_world()
    for key in KEYS[:5]:
        await world.mempool.submit_local(make_update(key, 0, b"payload"), b"payload")
    world.ledger.training_round = 1
    counts = []
    world.decide([], has_closed_training_round=True)
    counts.append(world.mempool.count)
    for _ in range(2):
        world.decide([])
        counts.append(world.mempool.count)
    assert counts == [3, 1, 0]


async def test_what_blocks_pass_over_because_it_became_impossible_is_told() -> None:
    world = make_world()
    update, behind = make_update(ALICE, 0, b"payload"), make_transfer(ALICE, 1)
    await world.mempool.submit_local_many([(update, b"payload"), (behind, None)])
    # No training round has closed here; the participant may have left, say.
    world.ledger.training_round = 1
    world.decide([])
    assert world.reap() == [update, behind]
    world.decide([])
    assert [(entry.raw, error.code) for entry, error in world.dropped] == [
        (update, ErrorCode.WRONG_TRAINING_ROUND)
    ]
    assert world.reap() == []
    assert world.mempool.pending_nonce(ALICE.address) == 0
    filler = make_transfer(ALICE, 0, 5)
    await world.mempool.submit_local(filler, None)
    assert world.reap() == [filler, behind]


async def test_blocks_told_after_the_state_of_the_last_refuse_nothing_that_they_hold() -> None:
    world = make_world()
    world.ledger.balances[ALICE.address] = 100
    raws = [make_transfer(ALICE, nonce, 30) for nonce in range(3)]
    update = make_update(BOB, 0, b"payload")
    await world.mempool.submit_local_many([*((raw, None) for raw in raws), (update, b"payload")])
    world.decide([make_transfer(CAROL, 0)])
    # A node that catches up executes blocks 2 to 4, and tells of them when they are durable.
    blocks = [[raws[0]], [raws[1]], [update]]
    decided = [world.ledger.decide(block) for block in blocks]
    world.ledger.training_round = 1
    for height, hashes in enumerate(decided, start=2):
        world.mempool.update(height, hashes, has_closed_training_round=height == 2)
    assert world.dropped == []
    assert world.reap() == [raws[2]]
    assert (world.mempool.count, world.mempool.ready_count) == (1, 1)


async def test_what_waits_its_turn_is_judged_anew_ever_more_rarely() -> None:
    world = make_world()
    await world.mempool.submit_local(make_update(ALICE, 0, b"payload"), b"payload")
    await world.mempool.submit_local(make_transfer(BOB, 0), None)
    before = world.ledger.checks
    counts = []
    for _ in range(33):
        world.decide([])
        counts.append(world.ledger.checks - before)
    assert [counts[i] for i in (0, 1, 2, 3, 7, 14)] == [0, 1, 1, 2, 3, 3]
    # After 16 and 32 blocks the transfer as well.
    assert [counts[i] for i in (15, 30, 31, 32)] == [5, 5, 7, 7]
    assert world.dropped == []


async def test_the_proposer_waits_for_something_ready() -> None:
    world = make_world()
    raws = [make_transfer(ALICE, nonce) for nonce in range(2)]
    await world.mempool.submit_local_many([(raw, None) for raw in raws])
    with trio.fail_after(10):
        await world.mempool.wait_for_transactions()
    world.take_out(raws[0], TransactionError(ErrorCode.INTERNAL, "dropped"))
    is_woken = trio.Event()

    async def wait() -> None:
        await world.mempool.wait_for_transactions()
        is_woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not is_woken.is_set(), "what waits behind a gap is not ready"
        await world.mempool.submit_local(make_transfer(ALICE, 0, 5), None)
        with trio.fail_after(10):
            await is_woken.wait()
