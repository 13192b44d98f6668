"""Admission: from a verified transaction to a pending one.

Owns the order of the checks (payload against its hash, nonce, state, room) and the sentences about
nonces. What is refused has changed nothing. Never verifies signatures and never waits.
"""

from collections.abc import Callable, Sequence
from typing import Final

from quorate.chain.content import compute_content_hash
from quorate.chain.errors import ErrorCode, PendingError, TransactionError

from node.mempool.door import Door, PendingTransaction
from node.mempool.journal import PAYLOAD_JOURNALED_BYTES_MAX
from node.mempool.pool import TransactionPool
from node.mempool.rivals import Rivals, make_replaced_error

NONCE_AHEAD_MAX: Final = 64
"""How far above the next nonce one may be to be called early; above, it is wrong."""


class NonceGapError(TransactionError):
    """The transaction's nonce is a little above the next one: those between are missing."""


class Admission:
    """Lets transactions into a pool.

    Parameters
    ----------
    pool : TransactionPool
        Where they go.
    door : Door
        The committed state.
    rivals : Rivals
        Knows what makes room for a transaction of a peer.
    dismiss : callable
        Told of each transaction that made room, and why.
    """

    def __init__(
        self,
        pool: TransactionPool,
        door: Door,
        rivals: Rivals,
        dismiss: Callable[[PendingTransaction, TransactionError], None],
    ) -> None:
        self._pool = pool
        self._door = door
        self._rivals = rivals
        self._dismiss = dismiss

    def judge(
        self,
        entry: PendingTransaction,
        payload: bytes | None,
        *,
        is_gap_allowed: bool = False,
        leaving: Sequence[PendingTransaction] = (),
    ) -> int:
        """Raise unless the state and what is pending allow this transaction.

        Parameters
        ----------
        entry : PendingTransaction
            Verified, not pending.
        payload : bytes, optional
            Its payload.
        is_gap_allowed : bool
            Whether nonces before it may be missing.
        leaving : sequence of PendingTransaction
            What it replaces, the one with its nonce first.

        Returns
        -------
        int
            The account's nonce.

        Raises
        ------
        TransactionError
            With the reason; `NonceGapError` when earlier ones are missing.
        PendingError
            If only the payload is missing.
        """
        account_nonce, balance = self._door.get_account(entry.sender)
        record = self._pool.get_sender(entry.sender)
        expected, spending = account_nonce, 0
        is_taken = False
        if record is not None and not leaving:
            expected = max(account_nonce, record.next)
            is_taken = entry.nonce in record.by_nonce
        if record is not None:
            spending = record.spending - sum(each.spending for each in leaving)
        if entry.nonce < expected or is_taken:
            raise TransactionError(
                ErrorCode.WRONG_NONCE,
                f"The transaction has nonce {entry.nonce}, which another one of the account has "
                f"used: sign it with the next one, {expected}.",
            )
        if entry.nonce > expected and not (is_gap_allowed or leaving):
            kind = NonceGapError if entry.nonce - expected <= NONCE_AHEAD_MAX else TransactionError
            raise kind(
                ErrorCode.WRONG_NONCE,
                f"The transaction has nonce {entry.nonce}, but the account's next one is "
                f"{expected}: send those between first, or sign it with {expected}.",
            )
        self._door.check(
            entry.signed, nonce=entry.nonce, spendable=balance - spending, payload=payload
        )
        return account_nonce

    def admit(
        self,
        entry: PendingTransaction,
        payload: bytes | None,
        *,
        is_gap_allowed: bool = False,
        is_limited: bool = True,
    ) -> None:
        """Make a transaction pending, and store its payload; dismiss what it replaces.

        Parameters
        ----------
        entry : PendingTransaction
            Verified, not pending.
        payload : bytes, optional
            Its payload, as `validate_payload` accepts it.
        is_gap_allowed, is_limited : bool
            False and True for what is new. What was accepted before a restart comes back even
            when an earlier one does not, and when the limits have become narrower.

        Raises
        ------
        TransactionError, PendingError
            As `judge`, or `mempool_full`, `quota_exceeded`; nothing has changed.
        """
        leaving = self._rivals.find_leaving(entry)
        account_nonce = self.judge(entry, payload, is_gap_allowed=is_gap_allowed, leaving=leaving)
        if is_limited:
            self._pool.require_room(entry, leaving)
        self.store_payload(entry, payload)
        for each in leaving:
            self._pool.remove(each.hash)
        if leaving:
            entry.replacements = leaving[0].replacements + 1
        self._pool.add(entry, account_nonce)
        for each in leaving:
            self._dismiss(each, make_replaced_error(entry))

    def store_payload(self, entry: PendingTransaction, payload: bytes | None) -> None:
        """Store the payload of a transaction that was judged, unless it is stored already.

        Raises
        ------
        TransactionError
            `mempool_full` if there is no room for it.
        """
        payload_hash = entry.payload_hash
        if payload_hash is None or payload is None:
            return
        # Putting a stored one again changes nothing, but takes long if it is large.
        is_large = len(payload) > PAYLOAD_JOURNALED_BYTES_MAX
        if not (is_large and self._door.has_payload(payload_hash)):
            self._door.put_payload(payload_hash, payload)


def validate_payload(entry: PendingTransaction, payload: bytes | None) -> None:
    """Raise unless the payload, if one came along, is the one that the transaction names.

    Raises
    ------
    TransactionError
        `payload_mismatch`.
    """
    if payload is None:
        return
    if entry.payload_hash is None:
        raise TransactionError(
            ErrorCode.PAYLOAD_MISMATCH,
            "A payload came with a transaction that names none: send the transaction alone.",
        )
    if len(payload) != entry.payload_size:
        raise TransactionError(
            ErrorCode.PAYLOAD_MISMATCH,
            f"The payload has {len(payload)} bytes, the transaction names {entry.payload_size}: "
            "send the payload that was signed for.",
        )
    if compute_content_hash(payload) != entry.payload_hash:
        raise TransactionError(
            ErrorCode.PAYLOAD_MISMATCH,
            "The payload does not have the hash that the transaction names: send the payload "
            "that was signed for.",
        )


def require_payload(error: PendingError) -> TransactionError:
    """Return what a user is told whose transaction came without its payload."""
    return TransactionError(
        ErrorCode.PAYLOAD_MISSING,
        f"The payload of the transaction is not here ({error}): send it along.",
    )
