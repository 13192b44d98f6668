"""Submissions of own users: admitted, and durable before the user is told.

Owns the way from a user's bytes to a journaled pending transaction, and the way back from the
journal after a restart. Never speaks to peers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio
from quorate.chain.errors import PendingError, TransactionError
from quorate.chain.ids import Hash
from quorate.chain.transaction import compute_transaction_hash

from node.mempool.admission import Admission, require_payload, validate_payload
from node.mempool.decided import DecidedTransactions
from node.mempool.door import (
    Door,
    OnDropped,
    PendingTransaction,
    SubmitOutcome,
    SubmitStatus,
    make_pending,
)
from node.mempool.intake import Intake
from node.mempool.journal import PAYLOAD_JOURNALED_BYTES_MAX, Journal, JournalRecord
from node.mempool.pool import TransactionPool
from node.mempool.slices import Slices
from node.mempool.verifier import TransactionVerifier

_log = structlog.get_logger("mempool")


@dataclass(frozen=True, slots=True)
class SubmissionParts:
    """The parts of the mempool that submissions go through."""

    pool: TransactionPool
    admission: Admission
    intake: Intake
    verifier: TransactionVerifier
    decided: DecidedTransactions


class Submissions:
    """The door for own users.

    Parameters
    ----------
    parts : SubmissionParts
        What a submission goes through.
    door : Door
        The committed state.
    journal : Journal or None
        Where accepted submissions are kept.
    clock : callable
        Seconds, never going back.
    on_dropped : callable
        Told of what was accepted before a restart and is refused now.
    """

    def __init__(
        self,
        parts: SubmissionParts,
        door: Door,
        journal: Journal | None,
        clock: Callable[[], float],
        on_dropped: OnDropped,
    ) -> None:
        self._pool = parts.pool
        self._admission = parts.admission
        self._intake = parts.intake
        self._verifier = parts.verifier
        self._decided = parts.decided
        self._door = door
        self._journal = journal
        self._clock = clock
        self._on_dropped = on_dropped

    async def take(
        self, submissions: Sequence[tuple[bytes, bytes | None]]
    ) -> list[SubmitOutcome | TransactionError]:
        """Admit transactions in their order, each by itself, in slices of some 2 ms."""
        slices = Slices()
        answers: list[SubmitOutcome | TransactionError] = []
        for raw, payload in submissions:
            try:
                answers.append(await self._take_one(raw, payload))
            except TransactionError as error:
                answers.append(error)
            await slices.pause_if_due()
        return answers

    async def make_durable(
        self,
        answers: Sequence[SubmitOutcome | TransactionError],
        payloads: Sequence[bytes | None],
    ) -> None:
        """Return once every pending one among the answers would survive a crash.

        Parameters
        ----------
        answers : sequence of SubmitOutcome or TransactionError
            As `take` gave them.
        payloads : sequence of bytes or None
            What came along with each.

        Raises
        ------
        StorageError
            If the journal cannot be written.
        """
        if self._journal is None:
            await trio.lowlevel.checkpoint()
            return
        entries: list[PendingTransaction] = []
        records: list[JournalRecord] = []
        for answer, payload in zip(answers, payloads, strict=True):
            if isinstance(answer, TransactionError):
                continue
            entry = self._pool.get(answer.hash)
            if entry is not None and not entry.is_durable:
                entries.append(entry)
                records.append(JournalRecord(entry.raw, self._get_small_payload(entry, payload)))
        try:
            await self._journal.append(records)
            for entry in entries:
                entry.is_durable = True
        finally:
            # What a block took meanwhile was not in the journal yet when the block came.
            self._journal.delete([each.hash for each in entries if each.hash not in self._pool])

    async def restore(self) -> None:
        """Take up again what the journal holds.

        Raises
        ------
        StorageError
            If the journal cannot be read.
        """
        if self._journal is None:
            return
        slices = Slices()
        finished = []
        for record in self._journal.load():
            if not self._restore_one(record):
                finished.append(record.hash)
            await slices.pause_if_due()
        self._journal.delete(finished)

    async def _take_one(self, raw: bytes, payload: bytes | None) -> SubmitOutcome:
        transaction_hash = compute_transaction_hash(raw)
        known = self._find(transaction_hash)
        if known is not None:
            return known
        self._pool.require_space(len(raw))
        _, signed = self._verifier.check(raw)
        entry = make_pending(transaction_hash, raw, signed, self._clock(), None)
        validate_payload(entry, payload)
        if self._is_decided(entry):
            return SubmitOutcome(transaction_hash, SubmitStatus.DECIDED, is_new=False)
        try:
            if payload is not None and len(payload) > PAYLOAD_JOURNALED_BYTES_MAX:
                self._admission.judge(entry, payload)
                self._pool.require_room(entry)
                # A large file takes long to become durable; meanwhile all may change.
                await trio.to_thread.run_sync(self._admission.store_payload, entry, payload)
                known = self._find(transaction_hash)
                if known is not None:
                    return known
            self._intake.admit(entry, payload)
        except PendingError as error:
            raise require_payload(error) from error
        return SubmitOutcome(transaction_hash, SubmitStatus.PENDING, is_new=True)

    def _find(self, transaction_hash: Hash) -> SubmitOutcome | None:
        if transaction_hash in self._pool:
            return SubmitOutcome(transaction_hash, SubmitStatus.PENDING, is_new=False)
        if transaction_hash in self._decided:
            return SubmitOutcome(transaction_hash, SubmitStatus.DECIDED, is_new=False)
        return None

    def _is_decided(self, entry: PendingTransaction) -> bool:
        account_nonce, _ = self._door.get_account(entry.sender)
        return entry.nonce < account_nonce and self._door.is_decided(entry.hash)

    def _get_small_payload(self, entry: PendingTransaction, payload: bytes | None) -> bytes | None:
        """Return the payload to journal: one given, or one stored before but maybe not durably."""
        if entry.payload_hash is None or entry.payload_size > PAYLOAD_JOURNALED_BYTES_MAX:
            return None
        return self._door.get_payload(entry.payload_hash) if payload is None else payload

    def _restore_one(self, record: JournalRecord) -> bool:
        """Take up a journaled transaction; tell whether it is pending."""
        try:
            transaction_hash, signed = self._verifier.check(record.raw)
        except TransactionError as error:
            _log.warning("journaled_transaction_void", hash=record.hash, reason=error.message)
            return False
        entry = make_pending(transaction_hash, record.raw, signed, self._clock(), None)
        if self._is_decided(entry):
            self._decided.add(transaction_hash)
            return False
        entry.is_durable = True
        try:
            self._admission.admit(entry, record.payload, is_gap_allowed=True, is_limited=False)
        except PendingError as error:
            self._on_dropped(entry, require_payload(error))
            return False
        except TransactionError as error:
            self._on_dropped(entry, error)
            return False
        return True
