"""The mempool at its door: every refusal, payloads, and what is sent on."""

import time

import trio
import trio.testing
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Address

from node.mempool import SubmitStatus
from tests.node.mempool.world import KEYS, hash_of, make_transfer, make_update, make_world, refuse

ALICE, BOB, CAROL = KEYS[:3]


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


async def test_the_outbox_gives_each_transaction_once() -> None:
    world = make_world()
    mempool = world.mempool
    payload = bytes(1_000)
    raws = [make_transfer(ALICE, 0), make_update(BOB, 0, payload), make_transfer(ALICE, 1)]
    await mempool.submit_local_many([(raws[0], None), (raws[1], payload), (raws[2], None)])
    with trio.fail_after(10):
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
    raws = [make_transfer(KEYS[number % 8], number // 8) for number in range(400)]
    costs = []
    # The least of a few: what other processes take of the caches counts as time, too.
    for _ in range(5):
        world = make_world()
        for raw in raws:
            world.mempool._verifier.check(raw)
        start = time.thread_time()
        await world.mempool.receive_batch("peer", [(raw, None) for raw in raws])
        costs.append((time.thread_time() - start) / len(raws))
        assert world.mempool.count == 400
    # The mark is 20 us; a busy machine gets three times that.
    assert min(costs) < 60e-6, f"{min(costs) * 1e6:.1f} us"


async def test_unknown_accounts_have_their_nonce_from_the_door() -> None:
    world = make_world()
    world.ledger.nonces[Address(b"\x01" * 20)] = 7
    assert world.mempool.pending_nonce(Address(b"\x01" * 20)) == 7
