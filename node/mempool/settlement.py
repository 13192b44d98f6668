"""Settling with a decided block: what is pending must still be possible.

Owns which pending transactions a new state refuses: by nonce and balance of the senders a block
touched, and by the ledger's own judgement of what blocks have passed over, and of everything
that depends on a training round when one has closed. Never reads a block and never waits.
"""

from collections.abc import Callable, Iterable
from typing import Final

from quorate.chain.errors import ErrorCode, PendingError, TransactionError
from quorate.chain.ids import Address, Hash

from node.mempool.admission import require_payload
from node.mempool.door import Door, PendingTransaction
from node.mempool.pool import TransactionPool

RECHECKS_PER_UPDATE_MAX: Final = 1_000
"""Conditional transactions judged anew after one block; the rest follow after the next."""

CONDITIONAL_BLOCKS_MIN: Final = 2
"""So many blocks pass over a conditional transaction before it is judged anew. The first of them
may have been proposed before it arrived."""

OTHER_BLOCKS_MIN: Final = 16
"""Likewise for any other, such as a transfer of a member that was revoked. Many may wait their
turn, and few are impossible."""


class Settlement:
    """Finds what has to leave a pool after a block.

    Parameters
    ----------
    pool : TransactionPool
        What is pending.
    door : Door
        The state after the block.
    dismiss : callable
        Told of each transaction that was taken out, and why.
    """

    def __init__(
        self,
        pool: TransactionPool,
        door: Door,
        dismiss: Callable[[PendingTransaction, TransactionError], None],
    ) -> None:
        self._pool = pool
        self._door = door
        self._dismiss = dismiss
        self._recheck_due: dict[Hash, None] = {}

    def settle(self, sender: Address) -> None:
        """Take out what a sender's new nonce and balance no longer allow."""
        account_nonce, balance = self._door.get_account(sender)
        for entry in self._pool.set_base(sender, account_nonce):
            error = TransactionError(
                ErrorCode.WRONG_NONCE,
                f"Another transaction of the account with nonce {entry.nonce} was decided: sign "
                f"it again with nonce {account_nonce} or higher.",
            )
            self._dismiss(entry, error)
        record = self._pool.get_sender(sender)
        if record is None or record.spending <= balance:
            return
        for nonce in sorted(record.by_nonce, reverse=True):
            if record.spending <= balance:
                break
            error = TransactionError(
                ErrorCode.INSUFFICIENT_BALANCE,
                f"The account has {balance} coins left, less than its pending transactions take: "
                "send it some, then submit again.",
            )
            self._remove(record.by_nonce[nonce].hash, error)

    def mark_all(self) -> None:
        """Have all conditional transactions judged anew, from the next `recheck` on."""
        self._recheck_due = dict.fromkeys(entry.hash for entry in self._pool.conditional)

    def mark_passed_over(self) -> None:
        """Have those judged anew that one more block has passed over; call it once a block.

        What a block has made impossible would be passed over by all proposers, and hold up its
        sender for good. Judging takes long when a payload is read for it, so that each is judged
        after 2, 4, 8, ... blocks: its sender waits for an answer at most twice as long as needed.
        """
        self._pool.blocks += 1
        self._mark_older(self._pool.conditional, CONDITIONAL_BLOCKS_MIN)
        self._mark_older(self._pool, OTHER_BLOCKS_MIN)

    def _mark_older(self, entries: Iterable[PendingTransaction], blocks_min: int) -> None:
        for entry in entries:
            blocks = self._pool.blocks - entry.since_block
            if blocks < blocks_min:
                # Those behind it have arrived later.
                break
            if blocks.bit_count() == 1:
                self._recheck_due[entry.hash] = None

    def recheck(self) -> None:
        """Judge marked transactions anew, `RECHECKS_PER_UPDATE_MAX` at most."""
        checked = 0
        while self._recheck_due and checked < RECHECKS_PER_UPDATE_MAX:
            transaction_hash = next(iter(self._recheck_due))
            del self._recheck_due[transaction_hash]
            entry = self._pool.get(transaction_hash)
            if entry is not None:
                checked += 1
                self._recheck_one(entry)

    def _recheck_one(self, entry: PendingTransaction) -> None:
        _, balance = self._door.get_account(entry.sender)
        record = self._pool.get_sender(entry.sender)
        others = 0 if record is None else record.spending - entry.spending
        try:
            self._door.check(
                entry.signed, nonce=entry.nonce, spendable=balance - others, payload=None
            )
        except PendingError as error:
            self._remove(entry.hash, require_payload(error))
        except TransactionError as error:
            self._remove(entry.hash, error)

    def _remove(self, transaction_hash: Hash, error: TransactionError) -> None:
        entry = self._pool.remove(transaction_hash)
        if entry is not None:
            self._dismiss(entry, error)
