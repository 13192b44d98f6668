"""Batches that are signed before the clock starts are what a node would accept."""

import msgspec
from quorate.chain.transaction import (
    Transfer,
    compute_transaction_hash,
    decode_transaction,
    is_transaction_signature_valid,
)

from bench.signing import CHAIN_ID, Senders, make_key, sign_transfers


def test_senders_take_turns_with_nonces_in_order() -> None:
    batches = sign_transfers(Senders("test", 5, 3), count=8, batch_size=4)
    assert [len(batch) for batch in batches] == [4, 4]
    keys = [make_key("test", 5 + i) for i in range(3)]
    seen = []
    for batch in batches:
        for (raw, payload), transaction_hash in zip(
            msgspec.msgpack.decode(batch.body), batch.hashes, strict=True
        ):
            signed = decode_transaction(raw)
            assert payload is None
            assert is_transaction_signature_valid(signed)
            assert signed.transaction.chain_id == CHAIN_ID
            assert compute_transaction_hash(raw) == transaction_hash
            body = signed.transaction.body
            assert isinstance(body, Transfer)
            seen.append((signed.sender, signed.transaction.nonce, body.to))
    addresses = [key.address for key in keys]
    assert seen == [(addresses[i % 3], i // 3, addresses[(i + 1) % 3]) for i in range(8)]
