"""The intake of peers' transactions: admitted at once, held for a while, or refused.

Owns what is done with a transaction that is early, and the second tries. Never verifies a
signature: what arrives here has a good one. Never waits.
"""

from collections.abc import Callable
from typing import Final

from quorate.chain.errors import ErrorCode, PendingError, TransactionError
from quorate.chain.ids import Address, Hash

from node.mempool.admission import Admission, NonceGapError
from node.mempool.door import PendingTransaction, WantPayload
from node.mempool.held import HeldFor, HeldTransaction, HeldTransactions

RETRIES_PER_UPDATE_MAX: Final = 256
"""Held transactions tried again after one block."""

MAY_PASS_LATER: Final = frozenset(
    {
        ErrorCode.INSUFFICIENT_BALANCE,
        ErrorCode.NOT_ADMITTED,
        ErrorCode.NOT_AUTHORIZED,
        ErrorCode.UNKNOWN_ACCOUNT,
        ErrorCode.UNKNOWN_TASK,
        ErrorCode.UNKNOWN_WEIGHTS,
        ErrorCode.TASK_NOT_OPEN,
        ErrorCode.WRONG_TRAINING_ROUND,
        ErrorCode.STALE_WEIGHTS,
    }
)
"""What a peer that is a block ahead may see otherwise."""


class Intake:
    """Admits transactions and holds those that are early.

    Parameters
    ----------
    admission : Admission
        The checks.
    pending_nonce : callable
        The nonce that an account's next transaction must have.
    want_payload : callable
        Asked for payloads that are missing.
    """

    def __init__(
        self,
        admission: Admission,
        pending_nonce: Callable[[Address], int],
        want_payload: WantPayload,
    ) -> None:
        self._admission = admission
        self._pending_nonce = pending_nonce
        self._want_payload = want_payload
        self.held = HeldTransactions()

    def admit(self, entry: PendingTransaction, payload: bytes | None) -> int:
        """Admit a transaction and those held for the nonces behind it; return how many.

        Raises
        ------
        TransactionError, PendingError
            As `Admission.admit`; nothing has changed.
        """
        self._admit_one(entry, payload)
        return 1 + self.admit_followers(entry.sender)

    def admit_or_hold(self, held: HeldTransaction) -> int:
        """Admit a transaction of a peer, or hold it if it may be good later; return how many.

        Raises
        ------
        TransactionError
            If it is neither good nor early.
        """
        if not self._admit_one_or_hold(held):
            return 0
        return 1 + self.admit_followers(held.entry.sender)

    def admit_followers(self, sender: Address) -> int:
        """Admit what was held for a sender's next nonces; return how many."""
        admitted = 0
        while self.held.has_sender(sender):
            # Those whose turn has passed, too: they may be rivals of what is pending.
            held = self.held.take_of_sender(sender, self._pending_nonce(sender))
            if held is None:
                break
            admitted += self._try_again(held)
        return admitted

    def receive_payload(self, payload_hash: Hash) -> int:
        """Admit what waited for a payload that is stored now; return how many."""
        admitted = 0
        for held in self.held.take_by_payload(payload_hash):
            if self._try_again(held):
                admitted += 1 + self.admit_followers(held.entry.sender)
        return admitted

    def want_again(self) -> None:
        """Ask again for the payloads that are waited for: a pull may have been given up."""
        for entry in self.held.get_for_payload():
            if entry.payload_hash is not None and entry.origin is not None:
                self._want_payload(entry.payload_hash, entry.payload_size, entry.origin)

    def follow_block(self, now: float) -> int:
        """Try again what the state refused, and let go of what is too old; return how many passed.

        Parameters
        ----------
        now : float
            Seconds of the mempool's clock.
        """
        self.held.expire(now)
        admitted = 0
        for held in self.held.take_for_state(RETRIES_PER_UPDATE_MAX):
            held.attempts += 1
            if self._try_again(held):
                admitted += 1 + self.admit_followers(held.entry.sender)
        return admitted

    def _try_again(self, held: HeldTransaction) -> bool:
        try:
            return self._admit_one_or_hold(held)
        except TransactionError:
            # Its time has passed. Nobody here was promised anything.
            return False

    def _admit_one_or_hold(self, held: HeldTransaction) -> bool:
        entry = held.entry
        try:
            self._admit_one(entry, held.payload)
        except NonceGapError:
            held.reason = HeldFor.NONCE
        except PendingError:
            held.reason = HeldFor.PAYLOAD
            if entry.payload_hash is not None and entry.origin is not None:
                self._want_payload(entry.payload_hash, entry.payload_size, entry.origin)
        except TransactionError as error:
            if error.code not in MAY_PASS_LATER:
                raise
            held.reason = HeldFor.STATE
        else:
            return True
        self.held.add(held)
        return False

    def _admit_one(self, entry: PendingTransaction, payload: bytes | None) -> None:
        self._admission.admit(entry, payload)
        self.held.remove(entry.hash)
