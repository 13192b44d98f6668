"""Execution before the vote: building proposals, judging them, and committing what was decided.

Owns the results of executed blocks until one of them is decided, and the order of writes at a
decision: files, then one synced batch, then the state in memory. Never votes and never talks to a
peer. A decided block is not executed twice: its result is kept by block hash.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
import trio
from quorate.chain.block import (
    APP_VERSION,
    BLOCK_VERSION,
    Block,
    Header,
    Version,
    compute_block_id,
    compute_last_commit_root,
    compute_transactions_root,
)
from quorate.chain.codec import encode
from quorate.chain.errors import BlockError, InvariantError, PendingError, TransactionError
from quorate.chain.evidence import DuplicateVoteEvidence
from quorate.chain.genesis import Genesis
from quorate.chain.ids import NO_HASH, Address, Hash
from quorate.chain.merkle import EMPTY_ROOT, compute_root
from quorate.chain.transaction import CreateTask, SignedTransaction, SubmitUpdate
from quorate.chain.vote import COMMIT_SIGNATURE_BYTES, BlockId, Commit

from ledger.execution import AggregateSource, BlockContext, BlockExecution, ExecutionResult
from ledger.offences import is_offence_recorded
from ledger.queries import get_finalizations_due
from ledger.state import State, compute_bucket
from node.execution.block_checks import (
    decode_block,
    validate_header,
    validate_last_commit,
    validate_roots,
)
from node.execution.chain_position import POSITION_DOCUMENT, ChainPosition
from node.execution.evidence_checks import EvidenceChecker
from node.execution.model_places import make_place_documents
from node.execution.sliced_payloads import SlicedPayloads
from node.mempool.verifier import TransactionVerifier
from store.chain_store import ChainStore, DecidedBlock
from store.payload_contract import Payloads

RESULTS_MAX = 16
"""Executed candidates kept for one height; the oldest makes room."""
SLICE_TRANSACTIONS = 64
"""Transactions executed between two looks at the other tasks of the node."""
BLOCK_OVERHEAD_BYTES = 4096
"""Room for a header and the framing of a block's lists, beside the last commit."""

_log = structlog.get_logger("executor")


@dataclass(frozen=True, slots=True)
class ExecutedBlock:
    """A block, its identity and bytes, and what executing it does."""

    block: Block
    block_id: BlockId
    raw: bytes
    result: ExecutionResult
    transaction_hashes: tuple[Hash, ...]
    evidence: tuple[DuplicateVoteEvidence, ...]


@dataclass(frozen=True, slots=True)
class BlockContents:
    """What a proposer puts into a block: verified transactions and evidence."""

    transactions: Sequence[tuple[Hash, bytes, SignedTransaction]]
    evidence: tuple[DuplicateVoteEvidence, ...] = ()


class Executor:
    """Executes candidates on the state of the last decided block.

    Parameters
    ----------
    genesis : Genesis
        What the chain began with.
    store : ChainStore
        Where decided blocks and state are kept.
    payloads : Payloads
        Where payloads, weights and optimizer states are kept.
    state : State
        The ledger's committed state, over `store`.
    position : ChainPosition
        Where the chain stands.
    verifier : TransactionVerifier
        Decodes transactions and checks each signature once.
    aggregates : AggregateSource
        Remembers aggregates by their inputs.

    Attributes
    ----------
    payload_source : SlicedPayloads
        The payloads as the ledger reads them.
    """

    def __init__(
        self,
        genesis: Genesis,
        store: ChainStore,
        payloads: Payloads,
        state: State,
        position: ChainPosition,
        verifier: TransactionVerifier,
        aggregates: AggregateSource,
    ) -> None:
        self._genesis = genesis
        self._store = store
        self._payloads = payloads
        self.payload_source = SlicedPayloads(payloads)
        self._verifier = verifier
        self._aggregates = aggregates
        self._evidence = EvidenceChecker(genesis.chain_id, store)
        self._results: dict[Hash, ExecutedBlock] = {}
        self.state = state
        self.position = position
        self.finalizations_due = get_finalizations_due(state)

    @property
    def fee_min(self) -> int:
        """The least fee of a transaction."""
        return self._genesis.fee_min

    @property
    def next_due_time_ms(self) -> int | None:
        """The block time at which the ledger needs a block, if it does."""
        return self.state.next_due_time_ms

    @property
    def held_bytes(self) -> int:
        """The bytes of decided blocks that are not durable yet; see `commit`."""
        return self._store.held_bytes

    @property
    def chain_id(self) -> str:
        """The chain whose blocks these are."""
        return self._genesis.chain_id

    def get_executed(self, block_hash: Hash) -> ExecutedBlock | None:
        """Return an executed candidate of the next height."""
        return self._results.get(block_hash)

    async def build(self, proposer: Address, now_ms: int, contents: BlockContents) -> ExecutedBlock:
        """Make the next block: execute, leave out what is refused, fill in the roots.

        Parameters
        ----------
        proposer : bytes, 20
            The creator's address.
        now_ms : int
            The creator's clock; the block's time is this, or one millisecond after the parent's.
        contents : BlockContents
            Candidates in order.

        Raises
        ------
        PendingError
            If a training round seals and its aggregate is not ready yet.
        """
        position = self.position
        time_ms = max(now_ms, position.time_ms + 1)
        context = self._make_context(time_ms, proposer, contents.evidence)
        execution = BlockExecution(self.state, context, self.payload_source, self._aggregates)
        kept: list[bytes] = []
        hashes: list[Hash] = []
        room = self._room_for_transactions(contents.evidence)
        for count, (hash_, raw, signed) in enumerate(contents.transactions):
            if count % SLICE_TRANSACTIONS == SLICE_TRANSACTIONS - 1:
                await trio.lowlevel.checkpoint()
            if len(raw) + 5 > room:
                break
            try:
                execution.apply_transaction(hash_, signed)
            except (TransactionError, PendingError) as error:
                _log.debug("transaction_left_out", transaction=hash_.hex(), reason=str(error))
                continue
            room -= len(raw) + 5
            kept.append(raw)
            hashes.append(hash_)
        result = execution.finish()
        self._require_position(position)
        evidence = tuple(encode(item) for item in contents.evidence)
        header = self._make_header(time_ms, proposer, tuple(kept), evidence, result)
        block = Block(header, tuple(kept), evidence, position.commit)
        raw_block = encode(block)
        return self._keep(
            ExecutedBlock(
                block,
                compute_block_id(block, raw_block),
                raw_block,
                result,
                tuple(hashes),
                contents.evidence,
            )
        )

    async def judge(
        self, block_id: BlockId, raw: bytes, *, is_decided: bool = False
    ) -> ExecutedBlock:
        """Execute a proposed block and compare its roots; remembered by block hash.

        Parameters
        ----------
        block_id : BlockId
            What was proposed.
        raw : bytes
            The block as assembled from its parts, which hash to the id's root.
        is_decided : bool
            Whether nobody will vote for it any more, so that its payloads need not be durable yet.

        Raises
        ------
        BlockError
            With the reason, if the block is invalid.
        PendingError
            If a payload or an aggregate is not here yet.
        """
        known = self._results.get(block_id.hash)
        if known is not None and known.block_id == block_id:
            return known
        position, chain_id = self.position, self.chain_id
        block = decode_block(block_id, raw, position.parameters.block_bytes_max)
        validate_header(block.header, chain_id, position)
        validate_last_commit(block, chain_id, position)
        evidence = self._validate_evidence(block)
        transactions = await self._verify_transactions(block)
        context = self._make_context(block.header.time_ms, block.header.proposer, evidence)
        execution = BlockExecution(self.state, context, self.payload_source, self._aggregates)
        for index, (hash_, signed) in enumerate(transactions):
            if index % SLICE_TRANSACTIONS == SLICE_TRANSACTIONS - 1:
                await trio.lowlevel.checkpoint()
            try:
                execution.apply_transaction(hash_, signed)
            except TransactionError as error:
                raise BlockError(f"transaction {index} ({hash_.hex()}): {error}") from error
            except PendingError as error:
                missing = self._find_missing_payloads(error, transactions[index:])
                raise PendingError(str(error), tuple(missing), missing) from error
        result = execution.finish()
        self._require_position(position)
        validate_roots(block.header, result)
        hashes = tuple(hash_ for hash_, _ in transactions)
        executed = ExecutedBlock(block, block_id, raw, result, hashes, evidence)
        return self._keep(executed, is_durable=not is_decided)

    def commit(self, commit: Commit, *, is_held: bool = False) -> ExecutedBlock:
        """Make a decided block durable and move on.

        Parameters
        ----------
        commit : Commit
            The proof of the decision.
        is_held : bool
            Whether it may become durable later, with `flush` or the next block that is not held.

        Raises
        ------
        InvariantError
            If the block was not executed here before: consensus decides only judged blocks.
        StorageError
            If it cannot be written; the node stops.
        """
        executed = self._results.get(commit.block_id.hash)
        if executed is None or executed.block_id != commit.block_id:
            raise InvariantError("a block was decided that this node has not executed")
        result, header = executed.result, executed.block.header
        position = self.position.advance(
            header, commit, result.validator_updates, result.parameters
        )
        for artifact_hash, data in result.artifacts.items():
            # A large one was stored when it had been computed; to put it again would hash all of it
            # on the event loop. The sync that follows covers one that is being stored elsewhere.
            if not self._payloads.has(artifact_hash):
                self._payloads.put(data, sync=False)
        if not is_held:
            self._payloads.sync()
        self._store.commit(
            DecidedBlock(
                height=header.height,
                block_hash=commit.block_id.hash,
                block=executed.raw,
                commit=encode(commit),
                receipts=encode(result.receipts),
                transaction_hashes=executed.transaction_hashes,
                state_writes=result.writes,
                bucket_of=partial(compute_bucket, bucket_count=self._genesis.bucket_count),
                documents={
                    POSITION_DOCUMENT: position.encode(),
                    **make_place_documents(self.state, result),
                },
            ),
            is_held=is_held,
        )
        self.state.commit(result)
        self.position = position
        self.finalizations_due = result.finalizations_due
        self._results.clear()
        return executed

    def flush(self) -> None:
        """Make all decided blocks durable: first what they name, then the blocks.

        Raises
        ------
        StorageError
            If they cannot be written; the node stops.
        """
        self._payloads.sync()
        self._store.flush()

    def _keep(self, executed: ExecutedBlock, *, is_durable: bool = True) -> ExecutedBlock:
        # Who votes for a block must not lose the payloads it names.
        if is_durable:
            self._payloads.sync()
        while len(self._results) >= RESULTS_MAX:
            del self._results[next(iter(self._results))]
        self._results[executed.block_id.hash] = executed
        return executed

    def _require_position(self, position: ChainPosition) -> None:
        # An execution yields to other tasks; if the height was decided meanwhile, it is moot.
        if self.position is not position:
            raise PendingError("the height was decided while the block was being executed")

    def _room_for_transactions(self, evidence: Iterable[DuplicateVoteEvidence]) -> int:
        signatures = len(self.position.last_validators) * COMMIT_SIGNATURE_BYTES
        used = BLOCK_OVERHEAD_BYTES + signatures + sum(len(encode(item)) for item in evidence)
        return self.position.parameters.block_bytes_max - used

    def _make_context(
        self, time_ms: int, proposer: Address, evidence: tuple[DuplicateVoteEvidence, ...]
    ) -> BlockContext:
        position = self.position
        return BlockContext(
            chain_id=self._genesis.chain_id,
            height=position.next_height,
            time_ms=time_ms,
            proposer=proposer,
            validators=position.validators,
            parameters=position.parameters,
            evidence=evidence,
            last_block_hash=NO_HASH if position.block_id is None else position.block_id.hash,
        )

    def _make_header(
        self,
        time_ms: int,
        proposer: Address,
        transactions: tuple[bytes, ...],
        evidence: tuple[bytes, ...],
        result: ExecutionResult,
    ) -> Header:
        position = self.position
        return Header(
            chain_id=self._genesis.chain_id,
            version=Version(BLOCK_VERSION, APP_VERSION),
            height=position.next_height,
            time_ms=time_ms,
            last_block_id=position.block_id,
            last_commit_root=compute_last_commit_root(position.commit),
            transactions_root=compute_transactions_root(transactions),
            evidence_root=compute_root(evidence),
            validators_root=position.validators.root,
            next_validators_root=position.next_validators.root,
            consensus_parameters_root=position.parameters.root,
            state_root=result.state_root,
            receipts_root=result.receipts_root,
            model_root=result.model_root,
            proposer=proposer,
        )

    def _validate_evidence(self, block: Block) -> tuple[DuplicateVoteEvidence, ...]:
        if not block.evidence:
            if block.header.evidence_root != EMPTY_ROOT:
                raise BlockError("evidence_root of no evidence is not the empty root")
            return ()
        return tuple(self.validate_evidence(raw, block.header.time_ms) for raw in block.evidence)

    def validate_evidence(self, raw: bytes, time_ms: int) -> DuplicateVoteEvidence:
        """Return verified evidence that may enter the next block.

        Raises
        ------
        BlockError
            If it cannot be decoded, proves nothing, is recorded already, or is older than the
            parameters allow.
        """
        evidence = self._evidence.validate(raw, self.position, time_ms)
        if is_offence_recorded(self.state, evidence):
            raise BlockError("evidence of an offence that is recorded already")
        return evidence

    def assess_evidence(self, raw: bytes, time_ms: int) -> DuplicateVoteEvidence | None:
        """Return a peer's evidence if it is of use; see `EvidenceChecker.assess`.

        Raises
        ------
        DecodeError, SignatureError
            If it is the sender's fault.
        """
        evidence = self._evidence.assess(raw, self.position, time_ms)
        is_news = evidence is not None and not is_offence_recorded(self.state, evidence)
        return evidence if is_news else None

    def _find_missing_payloads(
        self, error: PendingError, rest: Sequence[tuple[Hash, SignedTransaction]]
    ) -> dict[bytes, int]:
        """Return what the first of these transactions lacks, and what the rest will, with sizes."""
        missing = dict.fromkeys(error.missing_payloads, 0)
        for _, signed in rest:
            body = signed.transaction.body
            if not isinstance(body, SubmitUpdate | CreateTask):
                continue
            if not self._payloads.has(body.payload_hash):
                missing[body.payload_hash] = body.payload_size
        return missing

    async def _verify_transactions(self, block: Block) -> list[tuple[Hash, SignedTransaction]]:
        verified = []
        for index, answer in enumerate(await self._verifier.check_many(block.transactions)):
            if isinstance(answer, TransactionError):
                raise BlockError(f"transaction {index}: {answer}")
            verified.append(answer)
        return verified
