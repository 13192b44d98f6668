"""What the mempool asks of the ledger, and what it calls a transaction that waits.

Owns the types at the mempool's borders. Never judges a transaction: whoever implements `Door`
asks the ledger.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from quorate.chain.errors import TransactionError
from quorate.chain.ids import Address, Hash
from quorate.chain.transaction import (
    CreateTask,
    SignedTransaction,
    SubmitUpdate,
    Transaction,
    Transfer,
)

from node.mempool.journal import PAYLOAD_JOURNALED_BYTES_MAX


class Door(Protocol):
    """The committed state, as far as the mempool looks at it. All calls return at once."""

    @property
    def height(self) -> int:
        """The height of the last block that the state shows."""
        ...

    def check(
        self, signed: SignedTransaction, *, nonce: int, spendable: int, payload: bytes | None
    ) -> None:
        """Raise unless a block after the last decided one could hold this transaction.

        Parameters
        ----------
        signed : SignedTransaction
            Its signature and chain id have been verified.
        nonce : int
            The nonce that the transaction must have: the sender's, after what is pending.
        spendable : int
            The sender's balance, less what is pending.
        payload : bytes or None
            The payload, whose hash and size have been verified but which is not stored yet. None
            when the transaction has none, or when it must be stored already.

        Raises
        ------
        TransactionError
            With the reason.
        PendingError
            If all is well but the payload, which was not given, is not stored.
        """

    def get_account(self, address: Address) -> tuple[int, int]:
        """Return nonce and balance of an account; zeros when there is none."""
        ...

    def is_decided(self, transaction_hash: Hash) -> bool:
        """Tell whether a decided block holds a transaction."""
        ...

    def has_payload(self, payload_hash: Hash) -> bool:
        """Tell whether a payload is stored."""
        ...

    def get_payload(self, payload_hash: Hash) -> bytes | None:
        """Return a stored payload, or None."""
        ...

    def put_payload(self, payload_hash: Hash, data: bytes) -> None:
        """Store a payload of an admitted transaction.

        Durable on return if it has more than `PAYLOAD_JOURNALED_BYTES_MAX` bytes; smaller ones
        are in the mempool's journal besides. Larger ones are put from a thread.

        Raises
        ------
        TransactionError
            If there is no room (`mempool_full`).
        """


class SubmitStatus(StrEnum):
    """Where a submitted transaction stands."""

    PENDING = "pending"
    DECIDED = "decided"


@dataclass(frozen=True, slots=True)
class SubmitOutcome:
    """The answer to a submission that was not refused.

    Attributes
    ----------
    hash : bytes, 32
        What the transaction is known by.
    status : SubmitStatus
        `DECIDED` only when identical bytes were decided before.
    is_new : bool
        Whether this submission brought it.
    """

    hash: Hash
    status: SubmitStatus
    is_new: bool


@dataclass(slots=True, eq=False)
class PendingTransaction:
    """A transaction that waits for a block.

    Attributes
    ----------
    hash, raw, signed : bytes, bytes, SignedTransaction
        The transaction.
    sender : bytes, 20
        Its signer.
    nonce, spending : int
        Its place among the sender's, and the most it can take from the sender's balance.
    payload_hash, payload_size : bytes or None, int
        The payload it names; 0 bytes without one.
    is_conditional : bool
        Whether a block may make it invalid otherwise than by nonce and balance.
    received : float
        When it arrived, in seconds of the mempool's clock.
    origin : str or None
        The peer it came from; None for one of this node's own users.
    is_durable : bool
        Whether it is in the journal.
    arrival : int
        Its number in the order of arrival.
    since_block : int
        How many blocks the pool had seen when it arrived.
    replacements : int
        How many others with the same nonce have made room before it came to their place.
    """

    hash: Hash
    raw: bytes
    signed: SignedTransaction
    sender: Address
    nonce: int
    spending: int
    payload_hash: Hash | None
    payload_size: int
    is_conditional: bool
    received: float
    origin: str | None
    is_durable: bool = False
    arrival: int = 0
    since_block: int = 0
    replacements: int = 0

    @property
    def has_large_payload(self) -> bool:
        """Whether its payload is too large to ride along, and is announced instead."""
        return self.payload_size > PAYLOAD_JOURNALED_BYTES_MAX


Report = Callable[[str, int, str], None]
"""Told of a peer's offence: peer, penalty, reason."""

OnDropped = Callable[[PendingTransaction, TransactionError], None]
"""Told of a pending transaction that left the mempool undecided, and why."""

WantPayload = Callable[[Hash, int, str], object]
"""Asked for a missing payload: payload hash, size in bytes, a peer that should have it."""


def make_pending(
    transaction_hash: Hash,
    raw: bytes,
    signed: SignedTransaction,
    received: float,
    origin: str | None,
) -> PendingTransaction:
    """Return the record of a transaction whose signature was verified."""
    transaction = signed.transaction
    body = transaction.body
    payload_hash, payload_size = None, 0
    if isinstance(body, SubmitUpdate | CreateTask):
        payload_hash, payload_size = body.payload_hash, body.payload_size
    return PendingTransaction(
        transaction_hash,
        raw,
        signed,
        signed.sender,
        transaction.nonce,
        compute_spending(transaction),
        payload_hash,
        payload_size,
        not isinstance(body, Transfer),
        received,
        origin,
    )


def compute_spending(transaction: Transaction) -> int:
    """Return the most that a transaction can take from its sender's balance."""
    body = transaction.body
    return transaction.fee + (body.amount if isinstance(body, Transfer) else 0)
