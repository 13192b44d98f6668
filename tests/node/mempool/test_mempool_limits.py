"""The limits of the mempool, each of them reached."""

import pytest
from quorate.chain.errors import ErrorCode, TransactionError

from node.mempool.held import HELD_PER_SENDER_MAX
from node.mempool.mempool import BAD_TRANSACTION_PENALTY, ENTRIES_MAX, SUBMISSIONS_MAX
from tests.node.mempool.world import KEYS, hash_of, make_transfer, make_update, make_world, refuse

ALICE, BOB, CAROL = KEYS[:3]


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
