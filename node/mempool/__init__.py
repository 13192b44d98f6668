"""The mempool: what waits for a block, within limits, durably for own users.

Owns pending transactions from the door until a block holds them. Never sends anything itself and
never judges by rules of its own: the ledger stands behind `Door`.
"""

from node.mempool.door import (
    Door,
    OnDropped,
    PendingTransaction,
    Report,
    SubmitOutcome,
    SubmitStatus,
    WantPayload,
)
from node.mempool.journal import PAYLOAD_JOURNALED_BYTES_MAX
from node.mempool.mempool import Mempool
from node.mempool.verifier import TransactionVerifier

__all__ = [
    "PAYLOAD_JOURNALED_BYTES_MAX",
    "Door",
    "Mempool",
    "OnDropped",
    "PendingTransaction",
    "Report",
    "SubmitOutcome",
    "SubmitStatus",
    "TransactionVerifier",
    "WantPayload",
]
