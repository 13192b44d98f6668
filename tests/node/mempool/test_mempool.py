"""The mempool at its door: every limit, every refusal, the order, and what blocks do to it."""

import time

import pytest
import trio
import trio.testing
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Address

from node.mempool import SubmitStatus
from node.mempool.held import HELD_ATTEMPTS_MAX, HELD_PER_SENDER_MAX, HELD_S_MAX
from node.mempool.mempool import BAD_TRANSACTION_PENALTY, ENTRIES_MAX, SUBMISSIONS_MAX
from node.mempool.pool import ENTRY_OVERHEAD_BYTES
from node.mempool.settlement import RECHECKS_PER_UPDATE_MAX
from tests.node.mempool.world import KEYS, World, hash_of, make_transfer, make_update, make_world

ALICE, BOB, CAROL = KEYS[:3]


async def refuse(world: World, raw: bytes, payload: bytes | None = None) -> TransactionError:
    """Submit what must be refused; nothing may have changed."""
    before = (world.mempool.count, world.mempool.bytes_total, dict(world.ledger.payloads))
    with pytest.raises(TransactionError) as caught:
        await world.mempool.submit_local(raw, payload)
    assert before == (world.mempool.count, world.mempool.bytes_total, world.ledger.payloads)
    return caught.value


async def test_a_submission_is_pending_and_again_no_error() -> None:
    world = make_world()
    raw = make_transfer(ALICE, 0)
    first = await world.mempool.submit_local(raw, None)
    again = await world.mempool.submit_local(raw, None)
    assert (first.hash, first.status, first.is_new) == (hash_of(raw), SubmitStatus.PENDING, True)
    assert (again.hash, again.status, again.is_new) == (hash_of(raw), SubmitStatus.PENDING, False)
    assert world.mempool.count == 1
    assert world.mempool.bytes_total == len(raw)
    assert world.mempool.pending_nonce(ALICE.address) == 1


async def test_identical_bytes_of_a_decided_transaction_are_decided() -> None:
    world = make_world(cache_max=1)
    raws = [make_transfer(ALICE, nonce) for nonce in range(3)]
    world.decide(raws)
    for raw in raws:
        outcome = await world.mempool.submit_local(raw, None)
        assert outcome.status is SubmitStatus.DECIDED
    # Only the latest is still in the cache; the ledger knew the others.
    assert [world.mempool.has(hash_of(raw)) for raw in raws] == [False, False, True]


async def test_each_refusal_has_its_code() -> None:
    world = make_world()
    good = make_transfer(ALICE, 0)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    assert (await refuse(world, b"\xc1")).code is ErrorCode.MALFORMED
    assert (await refuse(world, bytes(70_000))).code is ErrorCode.TOO_LARGE
    assert (await refuse(world, forged)).code is ErrorCode.BAD_SIGNATURE
    elsewhere = make_transfer(ALICE, 0, chain_id="another")
    assert (await refuse(world, elsewhere)).code is ErrorCode.WRONG_CHAIN_ID
    ahead = await refuse(world, make_transfer(ALICE, 3))
    assert ahead.code is ErrorCode.WRONG_NONCE
    assert "next one is 0" in ahead.message
    far = await refuse(world, make_transfer(ALICE, 10**9))
    assert far.code is ErrorCode.WRONG_NONCE
    world.ledger.nonces[ALICE.address] = 2
    assert (await refuse(world, make_transfer(ALICE, 1))).code is ErrorCode.WRONG_NONCE
    rich = make_transfer(BOB, 0, 10**9)
    assert (await refuse(world, rich)).code is ErrorCode.INSUFFICIENT_BALANCE
    assert world.mempool.refused[ErrorCode.WRONG_NONCE] == 3


async def test_a_nonce_that_is_pending_is_taken() -> None:
    world = make_world()
    await world.mempool.submit_local(make_transfer(ALICE, 0, 1), None)
    error = await refuse(world, make_transfer(ALICE, 0, 2))
    assert error.code is ErrorCode.WRONG_NONCE
    assert "the next one, 1" in error.message


async def test_pending_transactions_use_up_the_balance() -> None:
    world = make_world()
    world.ledger.balances[ALICE.address] = 100
    await world.mempool.submit_local(make_transfer(ALICE, 0, 60, fee=10), None)
    error = await refuse(world, make_transfer(ALICE, 1, 31))
    assert error.code is ErrorCode.INSUFFICIENT_BALANCE
    await world.mempool.submit_local(make_transfer(ALICE, 1, 30), None)


async def test_payloads_must_be_the_ones_named() -> None:
    world = make_world()
    raw = make_update(ALICE, 0, b"payload")
    assert (await refuse(world, raw)).code is ErrorCode.PAYLOAD_MISSING
    assert (await refuse(world, raw, b"payloaD")).code is ErrorCode.PAYLOAD_MISMATCH
    assert (await refuse(world, raw, b"longer payload")).code is ErrorCode.PAYLOAD_MISMATCH
    transfer = make_transfer(ALICE, 0)
    assert (await refuse(world, transfer, b"payload")).code is ErrorCode.PAYLOAD_MISMATCH
    bad = await refuse(world, make_update(ALICE, 0, b"bad payload"), b"bad payload")
    assert bad.code is ErrorCode.VALUE_OUT_OF_RANGE
    await world.mempool.submit_local(raw, b"payload")
    assert list(world.ledger.payloads.values()) == [b"payload"]


async def test_a_large_payload_is_stored_beside_the_loop() -> None:
    world = make_world()
    payload = bytes(100_000)
    raw = make_update(ALICE, 0, payload)
    world.ledger.payload_room = 50_000
    assert (await refuse(world, raw, payload)).code is ErrorCode.MEMPOOL_FULL
    world.ledger.payload_room = 100_000
    await world.mempool.submit_local(raw, payload)
    assert list(world.ledger.payloads.values()) == [payload]


async def test_the_same_large_submission_twice_at_once() -> None:
    world = make_world()
    payload = bytes(100_000)
    raw = make_update(ALICE, 0, payload)
    outcomes = []

    async def submit() -> None:
        outcomes.append(await world.mempool.submit_local(raw, payload))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit)
        nursery.start_soon(submit)
    assert sorted(outcome.is_new for outcome in outcomes) == [False, True]
    assert world.mempool.count == 1


# Limits.


async def test_limit_of_transactions() -> None:
    world = make_world(transactions_max=2, per_sender_max=2)
    for key in (ALICE, BOB):
        await world.mempool.submit_local(make_transfer(key, 0), None)
    error = await refuse(world, make_transfer(CAROL, 0))
    assert error.code is ErrorCode.MEMPOOL_FULL
    assert "all 2 places" in error.message
    assert await world.mempool.receive_batch("peer", [(make_transfer(CAROL, 0), None)]) == 0
    assert world.mempool.refused[ErrorCode.MEMPOOL_FULL] == 2
    assert not world.reports
    world.decide([make_transfer(ALICE, 0)])
    await world.mempool.submit_local(make_transfer(CAROL, 0), None)


async def test_limit_of_bytes() -> None:
    raw = make_transfer(ALICE, 0)
    world = make_world(bytes_max=2 * len(raw) - 1)
    await world.mempool.submit_local(raw, None)
    assert (await refuse(world, make_transfer(BOB, 0))).code is ErrorCode.MEMPOOL_FULL


async def test_limit_of_payload_bytes() -> None:
    world = make_world(payload_bytes_max=10)
    await world.mempool.submit_local(make_update(ALICE, 0, b"123456"), b"123456")
    error = await refuse(world, make_update(BOB, 0, b"12345"), b"12345")
    assert error.code is ErrorCode.MEMPOOL_FULL
    assert "payloads" in error.message
    world.decide([make_update(ALICE, 0, b"123456")])
    await world.mempool.submit_local(make_update(BOB, 0, b"12345"), b"12345")


async def test_limit_of_one_sender() -> None:
    world = make_world(per_sender_max=3)
    for nonce in range(3):
        await world.mempool.submit_local(make_transfer(ALICE, nonce), None)
    assert (await refuse(world, make_transfer(ALICE, 3))).code is ErrorCode.QUOTA_EXCEEDED
    await world.mempool.submit_local(make_transfer(BOB, 0), None)


async def test_limit_of_a_users_batch() -> None:
    world = make_world()
    with pytest.raises(TransactionError) as caught:
        await world.mempool.submit_local_many([(b"", None)] * (SUBMISSIONS_MAX + 1))
    assert caught.value.code is ErrorCode.TOO_LARGE


async def test_limit_of_a_peers_batch() -> None:
    world = make_world()
    entries = [(make_transfer(ALICE, 0), None)] * (ENTRIES_MAX + 1)
    assert await world.mempool.receive_batch("peer", entries) == 0
    assert world.mempool.count == 0
    assert world.reports[0][:2] == ("peer", BAD_TRANSACTION_PENALTY)


async def test_limits_of_what_is_held() -> None:
    world = make_world()
    entries = [(make_transfer(ALICE, nonce), None) for nonce in range(1, 65)]
    await world.mempool.receive_batch("peer", entries)
    assert world.mempool.held_count == HELD_PER_SENDER_MAX
    # Nonces too far ahead are wrong, not early.
    await world.mempool.receive_batch("peer", [(make_transfer(BOB, 65), None)])
    assert world.mempool.held_count == HELD_PER_SENDER_MAX
    world.ledger.training_round = 5
    updates = [
        (make_update(ALICE, 1, b"%d" % number, training_round=9), b"%d" % number)
        for number in range(2)
    ]
    await world.mempool.receive_batch("peer", updates)
    assert world.mempool.held_count == HELD_PER_SENDER_MAX


async def test_the_oldest_held_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.mempool.held.HELD_MAX", 3)
    world = make_world()
    raws = [make_transfer(key, 1) for key in KEYS[:4]]
    await world.mempool.receive_batch("peer", [(raw, None) for raw in raws])
    assert [world.mempool.has(hash_of(raw)) for raw in raws] == [False, True, True, True]


async def test_held_bytes_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    raws = [make_transfer(key, 1) for key in KEYS[:4]]
    monkeypatch.setattr("node.mempool.held.HELD_BYTES_MAX", 2 * len(raws[0]))
    world = make_world()
    await world.mempool.receive_batch("peer", [(raw, None) for raw in raws])
    assert [world.mempool.has(hash_of(raw)) for raw in raws] == [False, False, True, True]


# The order.


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
    assert world.mempool.drop(hash_of(raws[1]), error)
    assert not world.mempool.drop(hash_of(raws[1]), error)
    assert [(entry.raw, why) for entry, why in world.dropped] == [(raws[1], error)]
    assert world.reap() == raws[:1]
    assert (world.mempool.count, world.mempool.ready_count) == (3, 1)
    assert world.mempool.pending_nonce(ALICE.address) == 1
    other = make_transfer(BOB, 0)
    filler = make_transfer(ALICE, 1, 7)
    await world.mempool.submit_local_many([(other, None), (filler, None)])
    assert world.reap() == [raws[0], other, filler, raws[2], raws[3]]
    assert world.mempool.ready_count == 5


# After blocks.


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


async def test_the_proposer_waits_for_something_ready() -> None:
    world = make_world()
    raws = [make_transfer(ALICE, nonce) for nonce in range(2)]
    await world.mempool.submit_local_many([(raw, None) for raw in raws])
    with trio.fail_after(1):
        await world.mempool.wait_for_transactions()
    world.mempool.drop(hash_of(raws[0]), TransactionError(ErrorCode.INTERNAL, "dropped"))
    is_woken = trio.Event()

    async def wait() -> None:
        await world.mempool.wait_for_transactions()
        is_woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not is_woken.is_set(), "what waits behind a gap is not ready"
        await world.mempool.submit_local(make_transfer(ALICE, 0, 5), None)
        with trio.fail_after(1):
            await is_woken.wait()


# Peers.


async def test_peers_transactions_are_admitted_and_known_ones_ignored() -> None:
    world = make_world()
    entries = [(make_transfer(ALICE, 0), None), (make_update(BOB, 0, b"payload"), b"payload")]
    assert await world.mempool.receive_batch("peer", entries) == 2
    assert await world.mempool.receive_batch("other", entries) == 0
    assert world.reap() == [raw for raw, _ in entries]
    entry = world.mempool.get(hash_of(entries[0][0]))
    assert entry is not None
    assert entry.origin == "peer"
    assert not world.reports


@pytest.mark.parametrize("offence", ["signature", "malformed", "chain", "payload", "too large"])
async def test_offences_cost_points_and_end_the_batch(offence: str) -> None:
    world = make_world()
    good = make_transfer(ALICE, 0)
    bad = {
        "signature": (good[:-1] + bytes([good[-1] ^ 1]), None),
        "malformed": (b"\xc1", None),
        "chain": (make_transfer(ALICE, 0, chain_id="other"), None),
        "payload": (make_update(ALICE, 0, b"payload"), b"PAYLOAD"),
        "too large": (bytes(70_000), None),
    }[offence]
    entries = [(make_transfer(BOB, 0), None), bad, (make_transfer(CAROL, 0), None)]
    assert await world.mempool.receive_batch("peer", entries) == 1
    assert [report[:2] for report in world.reports] == [("peer", BAD_TRANSACTION_PENALTY)]
    assert world.mempool.count == 1
    assert world.mempool.held_count == 0


async def test_stale_transactions_of_peers_are_no_offence() -> None:
    world = make_world()
    world.ledger.nonces[ALICE.address] = 5
    entries = [
        (make_transfer(ALICE, 4), None),
        (make_update(BOB, 0, b"bad"), b"bad"),
        (make_transfer(CAROL, 0), None),
    ]
    assert await world.mempool.receive_batch("peer", entries) == 1
    assert not world.reports
    assert world.mempool.refused[ErrorCode.WRONG_NONCE] == 1


async def test_early_nonces_of_peers_are_held_until_the_gap_closes() -> None:
    world = make_world()
    raws = [make_transfer(ALICE, nonce) for nonce in range(4)]
    shuffled = [raws[3], raws[1], raws[2]]
    assert await world.mempool.receive_batch("peer", [(raw, None) for raw in shuffled]) == 0
    assert (world.mempool.count, world.mempool.held_count) == (0, 3)
    assert await world.mempool.receive_batch("peer", [(raws[0], None)]) == 4
    assert world.reap() == raws
    assert world.mempool.held_count == 0


async def test_early_nonces_follow_a_block_and_an_own_user() -> None:
    world = make_world()
    raws = [make_transfer(ALICE, nonce) for nonce in range(4)]
    await world.mempool.receive_batch("peer", [(raws[1], None), (raws[3], None)])
    world.decide([raws[0]])
    assert world.reap() == [raws[1]]
    await world.mempool.submit_local(raws[2], None)
    assert world.reap() == raws[1:]


async def test_a_peer_that_is_a_block_ahead_is_understood_after_the_block() -> None:
    world = make_world()
    raw = make_update(ALICE, 0, b"payload", training_round=1)
    assert await world.mempool.receive_batch("peer", [(raw, b"payload")]) == 0
    assert world.mempool.has(hash_of(raw))
    assert not world.ledger.payloads, "nothing of a held transaction is stored"
    world.ledger.training_round = 1
    world.decide([])
    assert world.reap() == [raw]
    assert list(world.ledger.payloads.values()) == [b"payload"]


async def test_held_transactions_are_given_up() -> None:
    world = make_world()
    late = make_update(ALICE, 0, b"payload", training_round=7)
    early = make_transfer(BOB, 1)
    await world.mempool.receive_batch("peer", [(late, b"payload"), (early, None)])
    for _ in range(HELD_ATTEMPTS_MAX + 1):
        assert world.mempool.has(hash_of(late))
        world.decide([])
    world.decide([])
    assert not world.mempool.has(hash_of(late))
    assert world.mempool.has(hash_of(early))
    world.now = HELD_S_MAX + 1
    world.decide([])
    assert world.mempool.held_count == 0


async def test_a_missing_payload_is_asked_for_and_then_admitted() -> None:
    world = make_world()
    payload = b"payload"
    raw, behind = make_update(ALICE, 0, payload), make_transfer(ALICE, 1)
    assert await world.mempool.receive_batch("peer", [(raw, None), (behind, None)]) == 0
    payload_hash = world.wanted[0][0]
    assert world.wanted == [(payload_hash, len(payload), "peer")]
    assert world.mempool.receive_payload(payload_hash) == 0
    world.ledger.payloads[payload_hash] = payload
    assert world.mempool.receive_payload(payload_hash) == 2
    assert world.reap() == [raw, behind]
    assert world.mempool.receive_payload(payload_hash) == 0


async def test_a_bad_payload_that_was_pulled_admits_nothing() -> None:
    world = make_world()
    raw = make_update(ALICE, 0, b"bad")
    await world.mempool.receive_batch("peer", [(raw, None)])
    payload_hash = world.wanted[0][0]
    world.ledger.payloads[payload_hash] = b"bad"
    assert world.mempool.receive_payload(payload_hash) == 0
    assert not world.mempool.has(hash_of(raw))


# What is sent on.


async def test_the_outbox_gives_each_transaction_once() -> None:
    world = make_world()
    mempool = world.mempool
    payload = bytes(1_000)
    raws = [make_transfer(ALICE, 0), make_update(BOB, 0, payload), make_transfer(ALICE, 1)]
    await mempool.submit_local_many([(raws[0], None), (raws[1], payload), (raws[2], None)])
    with trio.fail_after(1):
        await mempool.wait_for_outbox()
    assert [entry.raw for entry in mempool.take_outbox(1_000, 10)] == raws[:1]
    assert [entry.raw for entry in mempool.take_outbox(10, 10)] == raws[1:2]
    assert [entry.raw for entry in mempool.take_outbox(10_000, 0)] == []
    assert [entry.raw for entry in mempool.take_outbox(10_000, 10)] == raws[2:]
    assert mempool.take_outbox(10_000, 10) == []
    decided = make_transfer(CAROL, 0)
    await mempool.submit_local(decided, None)
    world.decide([decided])
    with trio.move_on_after(0.01) as scope:
        await mempool.wait_for_outbox()
    assert scope.cancelled_caught, "what a block holds is not sent on"


async def test_old_pending_transactions_are_announced() -> None:
    world = make_world()
    for seconds, key in enumerate((ALICE, BOB, CAROL)):
        world.now = float(seconds)
        await world.mempool.submit_local(make_transfer(key, 0), None)
    ages = [entry.sender for entry in world.mempool.iterate_older_than(1.0)]
    assert ages == [ALICE.address, BOB.address]


async def test_a_transfer_costs_little_beside_its_signature() -> None:
    world = make_world()
    raws = [make_transfer(KEYS[number % 8], number // 8) for number in range(400)]
    for raw in raws:
        world.mempool._verifier.check(raw)
    start = time.thread_time()
    await world.mempool.receive_batch("peer", [(raw, None) for raw in raws])
    cost = (time.thread_time() - start) / len(raws)
    assert world.mempool.count == 400
    # The mark is 20 us; a busy machine gets three times that.
    assert cost < 60e-6, f"{cost * 1e6:.1f} us"


async def test_unknown_accounts_have_their_nonce_from_the_door() -> None:
    world = make_world()
    world.ledger.nonces[Address(b"\x01" * 20)] = 7
    assert world.mempool.pending_nonce(Address(b"\x01" * 20)) == 7
