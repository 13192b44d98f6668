"""Receipts: what a block did.

Owns the types that `receipts_root` commits to. Never computes their contents: the ledger does.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct

from quorate.chain.codec import encode
from quorate.chain.ids import (
    NO_HASH,
    Hash,
    Int64,
    OptionalHash,
    Uint32,
    Uint64,
    WireAddress,
    WireHash,
)
from quorate.chain.merkle import compute_root
from quorate.chain.round_policy import STALENESS_FACTOR_ONE, UPDATES_PER_ROUND_MAX
from quorate.chain.task import AggregationRule

RECEIPTS_BYTES_MAX = 64 << 20
ABSENCES_MAX = 512
"""The most absences that a training round's receipt lists; it counts all of them."""


class TransactionReceipt(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The outcome of a transaction. Only contracts, later, can be decided and still fail."""

    transaction_hash: WireHash
    is_success: bool


class RoundOutcome(IntEnum):
    """How a training round ended in this block."""

    FINALIZED = 1
    FROZEN = 2
    VOID = 3


class SealCause(IntEnum):
    """Why a training round took no more updates."""

    MAXIMUM = 1
    EVERYONE = 2
    DEADLINE = 3
    TASK_COMPLETED = 4


class ScoreName(IntEnum):
    """What the scores of a training round measure; it follows from the rule.

    `IN_DEGREE`: how many updates have this one among their nearest, under NNM. `LEAVE_ONE_OUT`:
    how much shorter the mean would be without it. `SURVIVAL`: the share of its parameters that
    were not trimmed away. `CENTRALITY`: how near it is to its nearest. `WEIGHT`: its share of the
    geometric median. `CLIPPING`: how much of its distance centered clipping has counted.
    """

    NONE = 0
    IN_DEGREE = 1
    LEAVE_ONE_OUT = 2
    SURVIVAL = 3
    CENTRALITY = 4
    WEIGHT = 5
    CLIPPING = 6


class UpdateReceipt(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What became of an update that a training round had.

    Attributes
    ----------
    participant : bytes, 20
    payload_hash : bytes, 32
    score : int
        16 fraction bits; the receipt of the round says what it measures.
    is_set_aside : bool
        Whether the rule gave it no weight, or clearly less than its share.
    is_clipped : bool
        Whether the rule's `clip` or `arc` shortened it.
    staleness : int
        How many training rounds its base weights were behind those it was added to.
    factor : int
        What it was scaled by for that, 16 fraction bits.
    example_count : int
        As its sender reported it.
    weight : int
        What the mean weighed it by: its example count where the task weighs by them and some
        update has one, else 1.
    """

    participant: WireAddress
    payload_hash: WireHash
    score: Int64
    is_set_aside: bool
    is_clipped: bool = False
    staleness: Uint32 = 0
    factor: Annotated[int, Meta(ge=0, le=STALENESS_FACTOR_ONE)] = STALENESS_FACTOR_ONE
    example_count: Uint32 = 0
    weight: Uint32 = 1


class AbsenceReason(IntEnum):
    """Why a participant has no update in a training round.

    `SILENT`: it was waited for, and sent nothing that could be counted. `EXCUSED`: it had been
    silent for so long that nobody waited for it. `LEFT`: it ended its registration, and its update
    went with it. `REVOKED`: the task's authority ended its registration.
    """

    SILENT = 1
    EXCUSED = 2
    LEFT = 3
    REVOKED = 4


class Absence(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A participant that a training round did not count."""

    participant: WireAddress
    reason: AbsenceReason


class MedianMetric(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The median over the evaluations of a round, 16 fraction bits; `loss` among the names."""

    name: str
    value: Int64


class RoundReceipt(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The end of a training round: who was counted, who was not, and the weights that followed.

    In a FROZEN receipt scores are 0 and the weights root is the old one; the FINALIZED receipt of
    a later block carries the result. What a node refused at its door, because it was late, stale or
    a second one, reached no block, and so no receipt: its sender was told.

    Attributes
    ----------
    set_root : bytes, 32
        Commits to the ordered updates.
    updates : tuple of UpdateReceipt
        In canonical order: by participant.
    saturated, clamped : int
        How many integers of updates, and how many weights, were cut off.
    cause : SealCause
    rule : AggregationRule or None
        What made one of the updates; None if nothing did, in a VOID receipt.
    score_name : ScoreName
    seed : bytes, 32 or 0
        What the rule permuted the updates by, if it does.
    registered_count, awaited_count : int
        How many participants the task had, and how many of them were not excused for being silent.
    extension_count : int
        How often the round was extended.
    absence_count : int
        How many participants had no update in it at its end, those counted who had withdrawn one.
    absences : tuple of Absence
        First those that withdrew, then silent and excused ones by registration. At most
        `ABSENCES_MAX`; of a large task, those that withdrew alone.
    """

    task_id: WireHash
    training_round: Uint64
    outcome: RoundOutcome
    base_weights_root: WireHash
    weights_root: WireHash
    set_root: OptionalHash
    updates: Annotated[tuple[UpdateReceipt, ...], Meta(max_length=UPDATES_PER_ROUND_MAX)]
    saturated: Uint64
    clamped: Uint64
    evaluation_count: Uint32
    evaluations: tuple[MedianMetric, ...]
    cause: SealCause = SealCause.DEADLINE
    rule: AggregationRule | None = None
    score_name: ScoreName = ScoreName.NONE
    seed: OptionalHash = NO_HASH
    registered_count: Uint32 = 0
    awaited_count: Uint32 = 0
    extension_count: Uint32 = 0
    absence_count: Uint32 = 0
    absences: Annotated[tuple[Absence, ...], Meta(max_length=ABSENCES_MAX)] = ()


class BlockReceipts(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """All receipts of a block, in execution order."""

    transactions: tuple[TransactionReceipt, ...]
    rounds: tuple[RoundReceipt, ...]

    @property
    def root(self) -> Hash:
        """The Merkle root over transaction receipts, then round receipts."""
        return compute_root([encode(receipt) for receipt in (*self.transactions, *self.rounds)])
