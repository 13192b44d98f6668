"""The mempool and peers: what is admitted, held, or held against them."""

import pytest
from quorate.chain.errors import ErrorCode

from node.mempool.held import HELD_ATTEMPTS_MAX, HELD_S_MAX
from node.mempool.mempool import BAD_TRANSACTION_PENALTY
from tests.node.mempool.world import KEYS, hash_of, make_transfer, make_update, make_world

ALICE, BOB, CAROL = KEYS[:3]


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
