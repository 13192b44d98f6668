"""The pending transactions in memory: by hash, by arrival and by each sender's nonces.

Owns the limits and the order. A transaction is *ready* when all nonces of its sender from the
account's on are pending up to it; only ready ones are given to a proposer. A gap opens when one
of a sender's transactions is dropped, and closes when its nonce is submitted again. Never judges
a transaction, never waits, never writes.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Address, Hash
from quorate.chain.transaction import SubmitUpdate

from node.config import MempoolSection
from node.mempool.door import PendingTransaction

ENTRY_OVERHEAD_BYTES: Final = 5
"""Bytes that a block's encoding adds to a transaction, at most."""


PAYLOAD_SHARE: Final = 4
"""One sender's payloads take at most one part in so many of `payload_bytes_max`; a single one may
take more."""


@dataclass(slots=True, eq=False)
class SenderRecord:
    """What is pending of one sender.

    Attributes
    ----------
    base : int
        The account's nonce after the last decided block.
    next : int
        The first nonce from `base` on that is not pending.
    spending : int
        The most that all pending ones can take from the balance.
    by_nonce : dict of int to PendingTransaction
        The transactions.
    payload_bytes : int
        The bytes of their payloads.
    updated : dict of bytes to None
        The tasks that one of them is an update of: one each.
    """

    base: int
    next: int
    spending: int = 0
    by_nonce: dict[int, PendingTransaction] = field(default_factory=dict)
    payload_bytes: int = 0
    updated: dict[Hash, None] = field(default_factory=dict)

    @property
    def ready_count(self) -> int:
        """How many are ready."""
        return self.next - self.base


class TransactionPool:
    """Pending transactions within limits.

    Parameters
    ----------
    limits : MempoolSection
        `transactions_max`, `bytes_max`, `payload_bytes_max` and `per_sender_max`.
    """

    def __init__(self, limits: MempoolSection) -> None:
        self._limits = limits
        self._entries: dict[Hash, PendingTransaction] = {}
        self._senders: dict[Address, SenderRecord] = {}
        self._conditional: dict[Hash, PendingTransaction] = {}
        self._unsent: dict[Hash, PendingTransaction] = {}
        self._large: dict[Hash, PendingTransaction] = {}
        self._payload_users: Counter[Hash] = Counter()
        self._new_large: dict[Hash, None] = {}
        self.bytes = 0
        self.payload_bytes = 0
        self.ready_count = 0
        self.blocks = 0
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, transaction_hash: Hash) -> bool:
        return transaction_hash in self._entries

    def __iter__(self) -> Iterator[PendingTransaction]:
        """Iterate in the order of arrival."""
        return iter(self._entries.values())

    @property
    def conditional(self) -> tuple[PendingTransaction, ...]:
        """Those that a block may make invalid by more than nonce and balance, oldest first."""
        return tuple(self._conditional.values())

    @property
    def large(self) -> Iterable[PendingTransaction]:
        """Those with payloads that do not ride along, oldest first."""
        return self._large.values()

    def names_payload(self, payload_hash: Hash) -> bool:
        """Tell whether a pending transaction names a payload."""
        return payload_hash in self._payload_users

    @property
    def has_new_large(self) -> bool:
        """Whether `take_new_large` may return any."""
        return bool(self._new_large)

    def take_new_large(self) -> tuple[Hash, ...]:
        """Return the large payloads named since the last call, pending or not any more."""
        if not self._new_large:
            return ()
        taken = tuple(each for each in self._new_large if each in self._payload_users)
        self._new_large.clear()
        return taken

    @property
    def senders(self) -> tuple[Address, ...]:
        """Everyone who has something pending, in the order of first arrival."""
        return tuple(self._senders)

    @property
    def unsent_count(self) -> int:
        """How many `take_unsent` has not returned yet."""
        return len(self._unsent)

    def get(self, transaction_hash: Hash) -> PendingTransaction | None:
        """Return a pending transaction, or None."""
        return self._entries.get(transaction_hash)

    def get_sender(self, sender: Address) -> SenderRecord | None:
        """Return what is pending of a sender, or None. Not to be changed."""
        return self._senders.get(sender)

    def require_space(self, size: int) -> None:
        """Raise unless a transaction of `size` bytes has room, whoever sent it.

        Raises
        ------
        TransactionError
            `mempool_full`.
        """
        limits = self._limits
        if len(self._entries) >= limits.transactions_max:
            raise _full(f"all {limits.transactions_max} places are taken")
        if self.bytes + size > limits.bytes_max:
            raise _full(f"{self.bytes} of {limits.bytes_max} bytes are taken")

    def require_room(
        self, entry: PendingTransaction, leaving: Sequence[PendingTransaction] = ()
    ) -> None:
        """Raise unless this transaction has room, once those that it replaces have left.

        Raises
        ------
        TransactionError
            `mempool_full`, `quota_exceeded` or `duplicate_update`.
        """
        limits = self._limits
        if not leaving:
            self.require_space(len(entry.raw))
        payload_bytes = self.payload_bytes - sum(each.payload_size for each in leaving)
        if payload_bytes + entry.payload_size > limits.payload_bytes_max:
            raise _full(
                f"payloads take {payload_bytes} of {limits.payload_bytes_max} bytes, and "
                f"this one has {entry.payload_size}"
            )
        record = self._senders.get(entry.sender)
        if record is not None:
            self._require_quota(record, entry, leaving)

    def _require_quota(
        self,
        record: SenderRecord,
        entry: PendingTransaction,
        leaving: Sequence[PendingTransaction],
    ) -> None:
        limits = self._limits
        if len(record.by_nonce) - len(leaving) >= limits.per_sender_max:
            raise TransactionError(
                ErrorCode.QUOTA_EXCEEDED,
                f"The sender has {len(record.by_nonce)} pending transactions, as many as one may: "
                "send more when some of them are decided.",
            )
        share = limits.payload_bytes_max // PAYLOAD_SHARE
        payload_bytes = record.payload_bytes - sum(each.payload_size for each in leaving)
        if entry.payload_size and 0 < payload_bytes > share - entry.payload_size:
            raise TransactionError(
                ErrorCode.QUOTA_EXCEEDED,
                f"The sender's pending payloads have {payload_bytes} bytes and this one "
                f"{entry.payload_size}; together one may have {share}: send it when some of them "
                "are decided.",
            )
        left = [get_updated_task(each) for each in leaving]
        task_id = get_updated_task(entry)
        if task_id in record.updated and task_id not in left:
            # The ledger would take one of them: a training round has one update of a participant.
            raise TransactionError(
                ErrorCode.DUPLICATE_UPDATE,
                "The sender has an update of this task pending already, and may have 1: wait until "
                "it is decided.",
            )

    def add(self, entry: PendingTransaction, account_nonce: int) -> None:
        """Add a transaction; `require_room` was asked, and its hash and nonce are not pending.

        Parameters
        ----------
        entry : PendingTransaction
            What arrived.
        account_nonce : int
            The sender's nonce after the last decided block; the transaction's is not below it.
        """
        record = self._senders.get(entry.sender)
        if record is None:
            record = self._senders[entry.sender] = SenderRecord(account_nonce, account_nonce)
        self._arrivals += 1
        entry.arrival, entry.since_block = self._arrivals, self.blocks
        self._entries[entry.hash] = entry
        self._unsent[entry.hash] = entry
        if entry.payload_hash is not None:
            self._payload_users[entry.payload_hash] += 1
            if entry.has_large_payload:
                self._large[entry.hash] = entry
                self._new_large[entry.payload_hash] = None
        if entry.is_conditional:
            self._conditional[entry.hash] = entry
        self.bytes += len(entry.raw)
        self.payload_bytes += entry.payload_size
        record.spending += entry.spending
        record.by_nonce[entry.nonce] = entry
        record.payload_bytes += entry.payload_size
        task_id = get_updated_task(entry)
        if task_id is not None:
            record.updated[task_id] = None
        if entry.nonce == record.next:
            self._advance(record)

    def remove(
        self, transaction_hash: Hash, *, is_decided: bool = False
    ) -> PendingTransaction | None:
        """Take a transaction out; those of its sender behind it wait for the gap to close.

        With `is_decided` no gap opens: `set_base` follows.
        """
        entry = self._entries.pop(transaction_hash, None)
        if entry is None:
            return None
        self._conditional.pop(transaction_hash, None)
        self._unsent.pop(transaction_hash, None)
        self._large.pop(transaction_hash, None)
        if entry.payload_hash is not None:
            self._payload_users[entry.payload_hash] -= 1
            if not self._payload_users[entry.payload_hash]:
                del self._payload_users[entry.payload_hash]
        self.bytes -= len(entry.raw)
        self.payload_bytes -= entry.payload_size
        record = self._senders[entry.sender]
        record.spending -= entry.spending
        record.payload_bytes -= entry.payload_size
        task_id = get_updated_task(entry)
        if task_id is not None:
            record.updated.pop(task_id, None)
        del record.by_nonce[entry.nonce]
        if not is_decided and record.base <= entry.nonce < record.next:
            self.ready_count -= record.next - entry.nonce
            record.next = entry.nonce
        if not record.by_nonce:
            self.ready_count -= record.ready_count
            del self._senders[entry.sender]
        return entry

    def set_base(self, sender: Address, account_nonce: int) -> list[PendingTransaction]:
        """Take note of a sender's nonce after a decided block.

        Returns
        -------
        list of PendingTransaction
            Those whose nonce has passed; they are taken out.
        """
        record = self._senders.get(sender)
        if record is None:
            return []
        self.ready_count -= record.ready_count
        record.base = account_nonce
        record.next = max(record.next, account_nonce)
        self.ready_count += record.ready_count
        self._advance(record)
        passed = [entry for nonce, entry in record.by_nonce.items() if nonce < account_nonce]
        for entry in passed:
            self.remove(entry.hash, is_decided=True)
        return passed

    def get_last(self, sender: Address) -> PendingTransaction | None:
        """Return the pending transaction of a sender with the highest nonce."""
        record = self._senders.get(sender)
        return None if record is None else record.by_nonce[max(record.by_nonce)]

    def reap(
        self,
        bytes_max: int,
        count_max: int,
        is_announced: Callable[[Hash], bool] = lambda _payload_hash: True,
        per_sender_max: int | None = None,
    ) -> list[PendingTransaction]:
        """Return ready transactions for a block, in the order of arrival as nonces allow.

        Parameters
        ----------
        bytes_max : int
            The most bytes they may take in the block, `ENTRY_OVERHEAD_BYTES` each included.
        count_max : int
            The most transactions.
        is_announced : callable, optional
            Whether a large payload has been announced, asked last before its transaction is taken;
            until then the transaction stays, and with it its sender's next ones.
        per_sender_max : int, optional
            The most of one sender.
        """
        reaped: list[PendingTransaction] = []
        # The nonce each sender's next transaction must have.
        due: dict[Address, int] = {}
        left = bytes_max
        for entry in self._entries.values():
            if len(reaped) >= count_max:
                break
            base = self._senders[entry.sender].base
            end = math.inf if per_sender_max is None else base + per_sender_max
            expected = due.get(entry.sender, base)
            if entry.nonce != expected:
                # One that arrived before a lower nonce follows right behind it, below; one
                # behind a nonce that did not fit has to wait with it.
                continue
            by_nonce = self._senders[entry.sender].by_nonce
            following: PendingTransaction | None = entry
            while following is not None and len(reaped) < count_max and expected < end:
                size = len(following.raw) + ENTRY_OVERHEAD_BYTES
                payload_hash = following.payload_hash if following.has_large_payload else None
                if size > left or not (payload_hash is None or is_announced(payload_hash)):
                    break
                left -= size
                reaped.append(following)
                expected += 1
                due[entry.sender] = expected
                following = by_nonce.get(expected)
                if following is not None and following.arrival > entry.arrival:
                    # Its own turn comes.
                    break
        return reaped

    def take_unsent(
        self, bytes_max: int, count_max: int, riding_bytes_max: int
    ) -> list[PendingTransaction]:
        """Return transactions that no call has returned before, in the order of arrival.

        Parameters
        ----------
        bytes_max : int
            The most bytes of them and of the payloads that ride along; the first may have more.
        count_max : int
            The most transactions.
        riding_bytes_max : int
            Payloads up to this size ride along.
        """
        taken: list[PendingTransaction] = []
        size = 0
        for entry in self._unsent.values():
            size += len(entry.raw)
            size += entry.payload_size if entry.payload_size <= riding_bytes_max else 0
            if len(taken) >= count_max or (taken and size > bytes_max):
                break
            taken.append(entry)
        for entry in taken:
            del self._unsent[entry.hash]
        return taken

    def _advance(self, record: SenderRecord) -> None:
        start = record.next
        while record.next in record.by_nonce:
            record.next += 1
        self.ready_count += record.next - start


def get_updated_task(entry: PendingTransaction) -> Hash | None:
    """Return the task that a transaction is an update of, or None."""
    body = entry.signed.transaction.body
    return body.task_id if isinstance(body, SubmitUpdate) else None


def _full(why: str) -> TransactionError:
    return TransactionError(
        ErrorCode.MEMPOOL_FULL,
        f"The node has no room for further pending transactions ({why}): try again in a moment.",
    )
