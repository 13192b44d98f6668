"""Deliberately dumb second versions of what the ledger computes cleverly.

Owns nothing of the product and imports nothing of it but ids and error codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import msgpack
from quorate.chain.errors import ErrorCode


def compute_naive_tree_root(leaf_hashes: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, by its recursive definition."""
    n = len(leaf_hashes)
    if n == 0:
        return sha256(b"").digest()
    if n == 1:
        return leaf_hashes[0]
    k = 1
    while 2 * k < n:
        k *= 2
    left = compute_naive_tree_root(leaf_hashes[:k])
    right = compute_naive_tree_root(leaf_hashes[k:])
    return sha256(b"\x01" + left + right).digest()


def compute_naive_state_root(entries: Mapping[bytes, bytes], bucket_count: int) -> bytes:
    """The state root from scratch, from nothing but the entries."""
    buckets: list[list[bytes]] = [[] for _ in range(bucket_count)]
    for key in sorted(entries):
        leaf = msgpack.packb((key, entries[key]), use_bin_type=True)
        place = int.from_bytes(sha256(key).digest()[:8], "big") % bucket_count
        buckets[place].append(sha256(b"\x00" + leaf).digest())
    return compute_naive_tree_root([compute_naive_tree_root(bucket) for bucket in buckets])


@dataclass
class DumbLedger:
    """Accounts as one would write them on paper."""

    fee_min: int
    balances: dict[bytes, int] = field(default_factory=dict)
    nonces: dict[bytes, int] = field(default_factory=dict)

    def transfer(
        self, proposer: bytes, sender: bytes, nonce: int, fee: int, to: bytes, amount: int
    ) -> ErrorCode | None:
        """Move the money, or say why not."""
        if nonce != self.nonces.get(sender, 0):
            return ErrorCode.WRONG_NONCE
        if fee < self.fee_min:
            return ErrorCode.FEE_TOO_LOW
        if fee + amount > self.balances.get(sender, 0):
            return ErrorCode.INSUFFICIENT_BALANCE
        self.nonces[sender] = nonce + 1
        self.balances[sender] = self.balances.get(sender, 0) - fee - amount
        self.balances[to] = self.balances.get(to, 0) + amount
        self.balances[proposer] = self.balances.get(proposer, 0) + fee
        return None
