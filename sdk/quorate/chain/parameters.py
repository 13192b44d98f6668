"""Consensus parameters: the numbers that all validators must share.

Owns their bounds and their root. Never holds what a node may choose for itself (timeouts,
limits of its queues): that is its config.
"""

from hashlib import sha256
from typing import Annotated

from msgspec import Meta, Struct

from quorate.chain.codec import encode
from quorate.chain.ids import Hash

BLOCK_BYTES_MAX = 16 << 20


class ConsensusParameters(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Parameters in force at a height; changed by validators with over two thirds of the power.

    Attributes
    ----------
    block_bytes_max : int
        The most bytes an encoded block may have.
    evidence_age_heights_max, evidence_age_ms_max : int
        Evidence older than both is refused.
    precision_ms, message_delay_ms : int
        The bounds of proposer-based timestamps: how far clocks may be apart, and how long a
        proposal may be on its way in round 0 (it grows by a tenth each round).
    aggregation_cost_block_max : int
        Training rounds up to this cost are aggregated in the block that seals them, as many in a
        block as fit into it together.
    payload_retain_ms : int
        How long, in block time, payloads are kept after their training round closed.
    transactions_per_sender_max : int
        How many transactions of one sender a block may hold.
    registrations_per_account_max : int
        How many tasks an account may be registered for at a time.
    tasks_per_account_max : int
        How many tasks that are not completed an account may have the authority over.
    update_bytes_per_account_max : int
        How many bytes of payloads an account's updates may have in training rounds that have not
        ended.
    """

    block_bytes_max: Annotated[int, Meta(ge=4096, le=BLOCK_BYTES_MAX)] = 4 << 20
    evidence_age_heights_max: Annotated[int, Meta(ge=1, le=2**40)] = 100_000
    evidence_age_ms_max: Annotated[int, Meta(ge=1, le=2**44)] = 172_800_000
    precision_ms: Annotated[int, Meta(ge=1, le=60_000)] = 500
    message_delay_ms: Annotated[int, Meta(ge=1, le=600_000)] = 15_000
    aggregation_cost_block_max: Annotated[int, Meta(ge=0, le=2**62)] = 200_000_000
    payload_retain_ms: Annotated[int, Meta(ge=0, le=2**44)] = 3_600_000
    transactions_per_sender_max: Annotated[int, Meta(ge=1, le=2**32 - 1)] = 4_096
    registrations_per_account_max: Annotated[int, Meta(ge=1, le=2**32 - 1)] = 1_024
    tasks_per_account_max: Annotated[int, Meta(ge=1, le=2**32 - 1)] = 1_024
    update_bytes_per_account_max: Annotated[int, Meta(ge=1, le=2**50)] = 8 << 30

    @property
    def root(self) -> Hash:
        """The hash that headers commit to."""
        return Hash(sha256(encode(self)).digest())
