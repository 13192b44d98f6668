"""The verifier: each signature once, in slices, within its bounds."""

import pytest
import trio
from quorate.chain.errors import ErrorCode, TransactionError

from node.mempool import TransactionVerifier
from tests.node.mempool.world import CHAIN_ID, KEYS, hash_of, make_transfer


def test_no_signature_is_checked_twice() -> None:
    verifier = TransactionVerifier(CHAIN_ID)
    raw = make_transfer(KEYS[0], 0)
    transaction_hash, signed = verifier.check(raw)
    assert transaction_hash == hash_of(raw)
    assert verifier.check(raw)[1] is signed
    assert verifier.get(transaction_hash) is signed
    assert verifier.checked_count == 1


def test_a_bad_signature_is_not_remembered() -> None:
    verifier = TransactionVerifier(CHAIN_ID)
    good = make_transfer(KEYS[0], 0)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    for _ in range(2):
        with pytest.raises(TransactionError) as caught:
            verifier.check(forged)
        assert caught.value.code is ErrorCode.BAD_SIGNATURE
    assert verifier.checked_count == 2
    assert len(verifier) == 0


def test_the_cache_is_bounded_in_number_and_bytes() -> None:
    raws = [make_transfer(KEYS[0], nonce) for nonce in range(5)]
    for verifier in (
        TransactionVerifier(CHAIN_ID, verified_max=2),
        TransactionVerifier(CHAIN_ID, verified_bytes_max=2 * len(raws[0])),
    ):
        for raw in raws:
            verifier.check(raw)
        assert [verifier.get(hash_of(raw)) is None for raw in raws] == [True] * 3 + [False] * 2


async def test_many_are_checked_in_slices_and_in_order() -> None:
    verifier = TransactionVerifier(CHAIN_ID)
    raws = [make_transfer(KEYS[number % 8], number // 8) for number in range(400)]
    raws[100] = b"\xc1"
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        answers = await verifier.check_many(raws)
        nursery.cancel_scope.cancel()
    # 400 signatures take some 15 ms; slices of 2 ms let the other task run in between.
    assert turns >= 3
    failed = answers.pop(100)
    assert isinstance(failed, TransactionError)
    assert failed.code is ErrorCode.MALFORMED
    del raws[100]
    assert [answer[0] for answer in answers if isinstance(answer, tuple)] == [*map(hash_of, raws)]
