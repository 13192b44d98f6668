"""Receipts: what a block did.

Owns the types that `receipts_root` commits to. Never computes their contents: the ledger does.
"""

from enum import IntEnum

from msgspec import Struct

from quorate.chain.codec import encode
from quorate.chain.ids import Hash, Int64, OptionalHash, Uint32, Uint64, WireAddress, WireHash
from quorate.chain.merkle import compute_root

RECEIPTS_BYTES_MAX = 64 << 20


class TransactionReceipt(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The outcome of a transaction. Only contracts, later, can be decided and still fail."""

    transaction_hash: WireHash
    is_success: bool


class RoundOutcome(IntEnum):
    """How a training round ended in this block."""

    FINALIZED = 1
    FROZEN = 2
    VOID = 3


class UpdateReceipt(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What became of an update: its score (16 fraction bits), whether the rule set it aside."""

    participant: WireAddress
    payload_hash: WireHash
    score: Int64
    is_set_aside: bool


class MedianMetric(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The median over the evaluations of a round, 16 fraction bits; `loss` among the names."""

    name: str
    value: Int64


class RoundReceipt(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The end of a training round: who was counted, and the weights that followed.

    `set_root` commits to the ordered updates. In a FROZEN receipt scores are 0 and the weights
    root is the old one; the FINALIZED receipt of a later block carries the result.
    """

    task_id: WireHash
    training_round: Uint64
    outcome: RoundOutcome
    base_weights_root: WireHash
    weights_root: WireHash
    set_root: OptionalHash
    updates: tuple[UpdateReceipt, ...]
    saturated: Uint64
    clamped: Uint64
    evaluation_count: Uint32
    evaluations: tuple[MedianMetric, ...]


class BlockReceipts(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """All receipts of a block, in execution order."""

    transactions: tuple[TransactionReceipt, ...]
    rounds: tuple[RoundReceipt, ...]

    @property
    def root(self) -> Hash:
        """The Merkle root over transaction receipts, then round receipts."""
        return compute_root([encode(receipt) for receipt in (*self.transactions, *self.rounds)])
