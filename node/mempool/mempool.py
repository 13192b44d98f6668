"""The mempool: transactions on their way into a block.

Owns the door for users and peers, the order in which things are made sure of (signature, nonce,
state, payload, room, journal), and what becomes of pending transactions after each block. Never
sends anything and never knows a peer but by name: the node wires it to the network.

All methods belong to one trio thread. A call that does not wait changes everything or nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import trio
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Address, Hash
from quorate.chain.transaction import compute_transaction_hash

from node.config import MempoolSection
from node.mempool.admission import Admission, validate_payload
from node.mempool.decided import DecidedTransactions
from node.mempool.door import (
    Door,
    OnDropped,
    PendingTransaction,
    Report,
    SubmitOutcome,
    WantPayload,
    make_pending,
)
from node.mempool.held import HeldFor, HeldTransaction
from node.mempool.intake import Intake
from node.mempool.journal import PAYLOAD_JOURNALED_BYTES_MAX, Journal
from node.mempool.large import LargePayloads
from node.mempool.pool import TransactionPool
from node.mempool.rivals import Rivals
from node.mempool.settlement import Settlement
from node.mempool.slices import Slices
from node.mempool.submissions import SubmissionParts, Submissions
from node.mempool.verifier import TransactionVerifier
from store.database import Database

SUBMISSIONS_MAX: Final = 1_000
"""Transactions of one batch of a user."""

ENTRIES_MAX: Final = 8_192
"""Transactions of one message of a peer."""

BAD_TRANSACTION_PENALTY: Final = 20
"""Points that a peer loses for what no honest node passes on; the rest of its message is void."""

_OFFENCES: Final = frozenset(
    {
        ErrorCode.MALFORMED,
        ErrorCode.TOO_LARGE,
        ErrorCode.WRONG_CHAIN_ID,
        ErrorCode.BAD_SIGNATURE,
        ErrorCode.PAYLOAD_MISMATCH,
    }
)
"""What does not depend on the state, so that a peer could have known."""


class Mempool:
    """Pending transactions of one node.

    Parameters
    ----------
    config : MempoolSection
        The limits.
    chain_id : str
        The chain.
    door : Door
        The committed state.
    journal : Database or None
        A database for the journal alone; None keeps nothing over a restart.
    clock : callable
        Seconds, never going back.
    verifier : TransactionVerifier, optional
        Shared with the judge of blocks; its own by default.
    report : callable, optional
        Told of each offence of a peer: peer, penalty, reason.
    on_dropped : callable, optional
        Told of each transaction that was pending and will not be decided, and why.
    want_payload : callable, optional
        Asked for a payload that an otherwise good transaction of a peer lacks: payload hash, size
        in bytes, peer. `receive_payload` is the answer.
    """

    def __init__(
        self,
        config: MempoolSection,
        chain_id: str,
        door: Door,
        journal: Database | None,
        clock: Callable[[], float],
        *,
        verifier: TransactionVerifier | None = None,
        report: Report = lambda _peer, _penalty, _reason: None,
        on_dropped: OnDropped = lambda _entry, _error: None,
        want_payload: WantPayload = lambda _payload_hash, _size, _peer: None,
    ) -> None:
        self._door = door
        self._journal = None if journal is None else Journal(journal)
        self._clock = clock
        self._verifier = TransactionVerifier(chain_id) if verifier is None else verifier
        self._report = report
        self._on_dropped = on_dropped
        self._pool = TransactionPool(config)
        self.large = LargePayloads(self._pool)
        rivals = Rivals(self._pool, self.large.is_announced, clock)
        self._admission = Admission(self._pool, door, rivals, self._dismiss)
        self._intake = Intake(self._admission, self.pending_nonce, want_payload)
        self._held = self._intake.held
        self._settlement = Settlement(self._pool, door, self._dismiss)
        self._decided = DecidedTransactions(config.cache_max)
        self._submissions = Submissions(
            SubmissionParts(
                self._pool, self._admission, self._intake, self._verifier, self._decided
            ),
            door,
            self._journal,
            clock,
            on_dropped,
        )
        self.height = 0
        self._touched: dict[Address, None] = {}
        self._has_closed_training_round = False
        self._has_ready = trio.Event()
        self._has_outgoing = trio.Event()
        self.refused: Counter[ErrorCode] = Counter()

    # What is in it.

    @property
    def count(self) -> int:
        """Pending transactions."""
        return len(self._pool)

    @property
    def bytes_total(self) -> int:
        """Bytes of the pending transactions, without their payloads."""
        return self._pool.bytes

    @property
    def ready_count(self) -> int:
        """Pending transactions that a block could hold now."""
        return self.large.ready_count

    @property
    def held_count(self) -> int:
        """Transactions of peers that wait to become pending."""
        return len(self._held)

    def get(self, transaction_hash: Hash) -> PendingTransaction | None:
        """Return a pending transaction, or None."""
        return self._pool.get(transaction_hash)

    def has(self, transaction_hash: Hash) -> bool:
        """Tell whether nobody needs to send this transaction: pending, held or lately decided."""
        return (
            transaction_hash in self._pool
            or transaction_hash in self._decided
            or transaction_hash in self._held
        )

    def names_payload(self, payload_hash: Hash) -> bool:
        """Tell whether a pending transaction names a payload, or one is held that waits for it."""
        return self._pool.names_payload(payload_hash) or self._held.names_payload(payload_hash)

    def pending_nonce(self, address: Address) -> int:
        """Return the nonce that an account's next transaction must have."""
        nonce, _ = self._door.get_account(address)
        record = self._pool.get_sender(address)
        return nonce if record is None else max(nonce, record.next)

    # The door for own users.

    async def submit_local(self, raw: bytes, payload: bytes | None) -> SubmitOutcome:
        """Accept a transaction of one of this node's users; on return it survives a crash.

        Raises
        ------
        TransactionError
            With the reason; nothing was stored.
        StorageError
            If it cannot be made durable.
        """
        answer = (await self._submit([(raw, payload)]))[0]
        if isinstance(answer, TransactionError):
            raise answer
        return answer

    async def submit_local_many(
        self, submissions: Sequence[tuple[bytes, bytes | None]]
    ) -> list[SubmitOutcome | TransactionError]:
        """Accept transactions in their order, each by itself, with one sync for all.

        Raises
        ------
        TransactionError
            `too_large` if there are more than `SUBMISSIONS_MAX`; nothing was stored.
        StorageError
            If they cannot be made durable.
        """
        if len(submissions) > SUBMISSIONS_MAX:
            raise TransactionError(
                ErrorCode.TOO_LARGE,
                f"The batch has {len(submissions)} transactions, the limit is {SUBMISSIONS_MAX}: "
                "send several batches.",
            )
        return await self._submit(submissions)

    async def restore(self) -> int:
        """Take up again what the journal holds; once, before anything is submitted or received.

        What a block holds is done. What the state refuses is dropped, and `on_dropped` told.

        Returns
        -------
        int
            How many transactions are pending again.

        Raises
        ------
        StorageError
            If the journal cannot be read.
        """
        await self._submissions.restore()
        self._signal()
        return self.count

    # The door for peers.

    async def receive_batch(self, peer: str, entries: Sequence[tuple[bytes, bytes | None]]) -> int:
        """Take transactions of a peer, with the payloads that came along.

        What no honest node passes on is reported, and ends the batch. What may only be early is
        held for a while. Nothing is raised: `refused` counts.

        Returns
        -------
        int
            How many are new and pending.
        """
        if len(entries) > ENTRIES_MAX:
            self._report(peer, BAD_TRANSACTION_PENALTY, f"{len(entries)} transactions at once")
            return 0
        slices = Slices()
        accepted = 0
        for raw, payload in entries:
            try:
                accepted += self._take_from_peer(peer, raw, payload)
            except TransactionError as error:
                self.refused[error.code] += 1
                if error.code in _OFFENCES:
                    self._report(peer, BAD_TRANSACTION_PENALTY, error.message)
                    break
            await slices.pause_if_due()
        self._signal()
        await trio.lowlevel.checkpoint()
        return accepted

    def receive_payload(self, payload_hash: Hash) -> int:
        """Admit what waited for a payload that is stored now; return how many that was."""
        admitted = self._intake.receive_payload(payload_hash)
        self._signal()
        return admitted

    def want_again(self) -> None:
        """Ask again for the payloads that held transactions wait for."""
        self._intake.want_again()

    # What blocks take and leave.

    def reap(
        self, bytes_max: int, count_max: int, per_sender_max: int | None = None
    ) -> list[PendingTransaction]:
        """Return transactions for a block; they stay pending until `update`.

        In the order of arrival, which keeps each sender's nonces in order and without a gap. What
        has a large payload stays until enough validators have announced it.

        Parameters
        ----------
        bytes_max : int
            The most bytes that they may take in the block's encoding.
        count_max : int
            The most transactions.
        per_sender_max : int, optional
            The most of one sender.
        """
        is_announced = self.large.announced.start_block()
        return self._pool.reap(bytes_max, count_max, is_announced, per_sender_max)

    def update(
        self,
        height: int,
        decided: Sequence[Hash],
        *,
        senders: Iterable[Address] | None = None,
        has_closed_training_round: bool = False,
    ) -> None:
        """Follow a decided block, once the door shows the state after it.

        A node that catches up executes several blocks before it tells of them. What is pending is
        settled with the last of them: an earlier one would find what a later one holds impossible.

        Parameters
        ----------
        height : int
            The height of the block.
        decided : sequence of bytes, 32
            The hashes of its transactions.
        senders : iterable of bytes, 20, optional
            Their signers. Left out, they are found among what is pending and verified; an unknown
            one makes every sender's nonce be looked at.
        has_closed_training_round : bool
            Whether pending training transactions must be judged anew.
        """
        self.height = height
        self._touched.update(dict.fromkeys(senders or ()))
        is_sender_unknown = False
        for transaction_hash in decided:
            self._decided.add(transaction_hash)
            self._held.remove(transaction_hash)
            entry = self._pool.remove(transaction_hash, is_decided=True)
            signed = self._verifier.get(transaction_hash) if entry is None else None
            if entry is not None:
                self._touched[entry.sender] = None
            elif signed is not None:
                self._touched[signed.sender] = None
            elif senders is None:
                is_sender_unknown = True
        if self._journal is not None:
            self._journal.delete(decided)
        if is_sender_unknown:
            self._touched.update(dict.fromkeys((*self._pool.senders, *self._held.senders)))
        self._has_closed_training_round |= has_closed_training_round
        self._settlement.mark_passed_over()
        if self._door.height <= height:
            self._settle()

    def _settle(self) -> None:
        """Let go of what the state has made impossible, and take in what it has made possible."""
        touched, self._touched = self._touched, {}
        for sender in touched:
            self._settlement.settle(sender)
            self._intake.admit_followers(sender)
        if self._has_closed_training_round:
            self._has_closed_training_round = False
            self._settlement.mark_all()
        self._settlement.recheck()
        self._intake.follow_block(self._clock())
        self._signal()

    def notice_announced(self) -> None:
        """Look again at what waits for announcements: they may be enough now."""
        self._signal()

    async def wait_for_transactions(self) -> None:
        """Return when a block would not be empty."""
        while not self.ready_count:
            if self._has_ready.is_set():
                self._has_ready = trio.Event()
            await self._has_ready.wait()
        await trio.lowlevel.checkpoint()

    # What is sent on.

    def take_outbox(self, bytes_max: int, count_max: int) -> list[PendingTransaction]:
        """Return transactions that are new since the last call, oldest first.

        Parameters
        ----------
        bytes_max : int
            The most bytes of them with the payloads that ride along; the first may have more.
        count_max : int
            The most transactions.
        """
        return self._pool.take_unsent(bytes_max, count_max, PAYLOAD_JOURNALED_BYTES_MAX)

    async def wait_for_outbox(self) -> None:
        """Return when `take_outbox` has something to give."""
        while not self._pool.unsent_count:
            if self._has_outgoing.is_set():
                self._has_outgoing = trio.Event()
            await self._has_outgoing.wait()
        await trio.lowlevel.checkpoint()

    def iterate_older_than(self, age_s: float) -> Iterator[PendingTransaction]:
        """Iterate over what has been pending for `age_s` seconds or longer, oldest first."""
        limit = self._clock() - age_s
        for entry in self._pool:
            if entry.received > limit:
                return
            yield entry

    # How it is done.

    async def _submit(
        self, submissions: Sequence[tuple[bytes, bytes | None]]
    ) -> list[SubmitOutcome | TransactionError]:
        answers = await self._submissions.take(submissions)
        for answer in answers:
            if isinstance(answer, TransactionError):
                self.refused[answer.code] += 1
        self._signal()
        await self._submissions.make_durable(answers, [payload for _, payload in submissions])
        return answers

    def _take_from_peer(self, peer: str, raw: bytes, payload: bytes | None) -> int:
        transaction_hash = compute_transaction_hash(raw)
        if self.has(transaction_hash):
            return 0
        self._pool.require_space(len(raw))
        _, signed = self._verifier.check(raw)
        entry = make_pending(transaction_hash, raw, signed, self._clock(), peer)
        validate_payload(entry, payload)
        return self._intake.admit_or_hold(HeldTransaction(entry, payload, HeldFor.STATE))

    def _dismiss(self, entry: PendingTransaction, error: TransactionError) -> None:
        """Forget a transaction that is out of the pool, and tell."""
        if self._journal is not None:
            self._journal.delete([entry.hash])
        self._on_dropped(entry, error)

    def _signal(self) -> None:
        self.large.signal()
        if self.ready_count:
            self._has_ready.set()
        if self._pool.unsent_count:
            self._has_outgoing.set()
