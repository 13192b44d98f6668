"""Making the next block: what a proposer puts into it.

Owns the choice of the contents: results of frozen training rounds, evidence, pending transactions
in order of arrival. Never signs a proposal and never decides whose turn it is.
"""

from collections.abc import Callable

from quorate.chain.block import EVIDENCE_PER_BLOCK_MAX, TRANSACTIONS_PER_BLOCK_MAX
from quorate.chain.codec import encode
from quorate.chain.errors import BlockError, PendingError
from quorate.chain.evidence import DuplicateVoteEvidence
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.transaction import (
    TRANSACTION_VERSION,
    FinalizeTrainingRound,
    SignedTransaction,
    Transaction,
    compute_transaction_hash,
    decode_transaction,
    sign_transaction,
)

from ledger.queries import get_account
from node.agreement.evidence_pool import EvidencePool
from node.agreement.judging import Judge
from node.execution.executor import BlockContents, ExecutedBlock, Executor
from node.execution.frozen_rounds import FrozenRounds
from node.mempool.mempool import Mempool

EVIDENCE_SHARE = 8
"""At most one part in so many of a block's bytes is evidence."""


class Proposer:
    """Makes blocks for this validator's turns.

    Parameters
    ----------
    key : PrivateKey
        The validator's; it signs the transactions that carry results of frozen rounds.
    executor : Executor
        Executes the candidates.
    mempool : Mempool
        Pending transactions.
    evidence : EvidencePool
        Pending evidence.
    judge : Judge
        Waits for what is pending.
    frozen_rounds : FrozenRounds
        Knows whose results are here.
    transactions_max : int
        The most transactions this node puts into a block.
    now_ms : callable
        The node's clock.
    """

    def __init__(
        self,
        key: PrivateKey,
        executor: Executor,
        mempool: Mempool,
        evidence: EvidencePool,
        judge: Judge,
        frozen_rounds: FrozenRounds,
        transactions_max: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._key = key
        self._executor = executor
        self._mempool = mempool
        self._evidence = evidence
        self._judge = judge
        self._frozen_rounds = frozen_rounds
        self._transactions_max = min(transactions_max, TRANSACTIONS_PER_BLOCK_MAX)
        self._now_ms = now_ms

    async def make_block(self) -> ExecutedBlock:
        """Return the next block, executed; waits for an aggregate if a training round seals."""
        while True:
            now_ms = self._now_ms()
            transactions = (*self._finalizations(), *self._pending())
            contents = BlockContents(
                transactions[: self._transactions_max], self._valid_evidence(now_ms)
            )
            try:
                return await self._executor.build(self._key.address, now_ms, contents)
            except PendingError as error:
                await self._judge.wait_for(error)

    def _pending(self) -> list[tuple[Hash, bytes, SignedTransaction]]:
        parameters = self._executor.position.parameters
        reaped = self._mempool.reap(
            parameters.block_bytes_max,
            self._transactions_max,
            parameters.transactions_per_sender_max,
        )
        return [(entry.hash, entry.raw, entry.signed) for entry in reaped]

    def _finalizations(self) -> list[tuple[Hash, bytes, SignedTransaction]]:
        """Return a transaction for each frozen round that has a result.

        Of one that has none yet there is none: left out, it would take its nonce with it, and with
        that the results behind it.
        """
        nonce = get_account(self._executor.state, self._key.address).nonce
        made: list[tuple[Hash, bytes, SignedTransaction]] = []
        for task_id, training_round in self._frozen_rounds.get_ready():
            body = FinalizeTrainingRound(task_id, training_round)
            transaction = Transaction(
                TRANSACTION_VERSION,
                self._executor.chain_id,
                self._key.public_key,
                nonce + len(made),
                self._executor.fee_min,
                body,
            )
            raw = sign_transaction(self._key, transaction)
            made.append((compute_transaction_hash(raw), raw, decode_transaction(raw)))
        return made

    def _valid_evidence(self, now_ms: int) -> tuple[DuplicateVoteEvidence, ...]:
        bytes_max = self._executor.position.parameters.block_bytes_max // EVIDENCE_SHARE
        valid = []
        for evidence in self._evidence.reap(EVIDENCE_PER_BLOCK_MAX, bytes_max):
            try:
                valid.append(self._executor.validate_evidence(encode(evidence), now_ms))
            except BlockError:
                # Too old by now, or recorded by a block; if its height is still running, it waits.
                if evidence.first.height <= self._executor.position.height:
                    self._evidence.drop(evidence)
        return tuple(valid)
