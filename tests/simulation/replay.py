"""The chain replayed: every decided block judged again from the genesis on, beside all nodes.

Owns a ledger of its own over an empty database, and a dumb book of updates that knows nothing of
the ledger's state: what was counted, withdrawn, frozen, finalized or voided must add up. Never
asks a node for anything but its blocks.
"""

from collections import deque
from dataclasses import dataclass, field

from quorate.chain.block import Block
from quorate.chain.codec import decode, encode
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import BlockError, CommitError, PendingError
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Address, Hash
from quorate.chain.receipt import RoundOutcome, RoundReceipt, SealCause
from quorate.chain.transaction import (
    ChangeTaskStatus,
    CreateTask,
    FinalizeTrainingRound,
    RevokeParticipant,
    SignedTransaction,
    SubmitUpdate,
    TaskStatus,
    decode_transaction,
)
from quorate.chain.vote import COMMIT_BYTES_MAX, Commit, verify_commit

from ledger.aggregates import InlineAggregates
from ledger.state import State
from node.composition import Node
from node.execution.executor import ExecutedBlock, Executor
from node.execution.stored_chain import initialize_storage, load_position
from node.mempool.verifier import TransactionVerifier
from store.chain_store import ChainStore
from store.database import MemoryDatabase
from store.memory_payloads import MemoryPayloadStore
from tests.simulation.checks import Violation


class Archive:
    """The payloads that decided blocks name, as they were when their blocks were decided."""

    def __init__(self) -> None:
        self.payloads = MemoryPayloadStore()
        self._height = 0

    def keep(self, number: int, node: Node, executed: ExecutedBlock) -> None:
        """Keep what a decided block names; whoever decides a block must have it."""
        height = executed.block.header.height
        for raw in executed.block.transactions:
            body = decode_transaction(raw).transaction.body
            if not isinstance(body, SubmitUpdate | CreateTask):
                continue
            data = node.services.storage.payloads.get(body.payload_hash)
            if data is None:
                raise Violation(f"node {number} decided {height} without a payload that it names")
            if height > self._height:
                self.payloads.put_expected(body.payload_hash, data)
        self._height = max(self._height, height)


@dataclass
class Book:
    """Updates that have been decided, until a training round ends with them.

    Attributes
    ----------
    open, frozen : dict of task ids to (participant to payload hash)
        What the open training round has, and what one that waits for its result has.
    """

    open: dict[Hash, dict[Address, Hash]] = field(default_factory=dict)
    frozen: dict[Hash, dict[Address, Hash]] = field(default_factory=dict)
    ended: int = 0

    def follow(self, executed: ExecutedBlock) -> None:
        """Enter a block."""
        receipts = deque(executed.result.receipts.rounds)
        for raw in executed.block.transactions:
            self._enter(decode_transaction(raw), receipts)
        while receipts:
            self._end_round(receipts.popleft())

    def _enter(self, signed: SignedTransaction, receipts: deque[RoundReceipt]) -> None:
        body = signed.transaction.body
        match body:
            case SubmitUpdate():
                counted = self.open.setdefault(body.task_id, {})
                if signed.sender in counted:
                    raise Violation(f"{signed.sender.hex()} has two updates in a training round")
                counted[signed.sender] = body.payload_hash
            case RevokeParticipant():
                self.open.get(body.task_id, {}).pop(body.participant, None)
            case FinalizeTrainingRound():
                self._end_round(receipts.popleft())
                self._end_completed(receipts)
            case ChangeTaskStatus(status=TaskStatus.COMPLETED):
                self._end_completed(receipts)
            case _:
                pass

    def _end_completed(self, receipts: deque[RoundReceipt]) -> None:
        if receipts and receipts[0].cause is SealCause.TASK_COMPLETED:
            self._end_round(receipts.popleft())

    def _end_round(self, receipt: RoundReceipt) -> None:
        told = {update.participant: update.payload_hash for update in receipt.updates}
        name = f"training round {receipt.training_round} of {receipt.task_id.hex()[:16]}"
        is_frozen = receipt.outcome is RoundOutcome.FINALIZED and receipt.task_id in self.frozen
        books = self.frozen if is_frozen else self.open
        counted = books.pop(receipt.task_id, {})
        if told != counted or len(told) != len(receipt.updates):
            raise Violation(
                f"{name} ended {receipt.outcome.name.lower()} with {len(receipt.updates)} updates, "
                f"and {len(counted)} were decided for it"
            )
        if receipt.outcome is RoundOutcome.FROZEN:
            self.frozen[Hash(receipt.task_id)] = counted
        else:
            self.ended += 1


async def replay(genesis: Genesis, chain: ChainStore, archive: Archive) -> Executor:
    """Judge all blocks of a chain again; return the executor with the state after the last.

    Raises
    ------
    Violation
        If a commit proves nothing, a block is invalid, its receipts are others, or updates are
        lost between blocks.
    """
    store, payloads = ChainStore(MemoryDatabase()), archive.payloads
    initialize_storage(store, genesis)
    state = State(store, genesis)
    verifier = TransactionVerifier(genesis.chain_id)
    executor = Executor(
        genesis,
        store,
        payloads,
        state,
        load_position(store, state),
        verifier,
        InlineAggregates(),
    )
    book = Book()
    for height in range(chain.initial_height, chain.height + 1):
        raw, raw_commit = chain.load_block(height), chain.load_commit(height)
        if raw is None or raw_commit is None:
            raise Violation(f"block {height} is not stored")
        commit = decode(Commit, raw_commit, COMMIT_BYTES_MAX)
        block_hash = decode(Block, raw, len(raw)).header.hash
        validators = executor.position.validators
        try:
            verify_commit(genesis.chain_id, validators, height, block_hash, commit)
            executed = await executor.judge(commit.block_id, raw)
        except (CommitError, BlockError, PendingError) as error:
            raise Violation(
                f"block {height} does not stand when it is judged again: {error}"
            ) from error
        if encode(executed.result.receipts) != chain.load_receipts(height):
            raise Violation(f"block {height} has other receipts when it is executed again")
        executor.commit(commit)
        book.follow(executed)
    return executor


def check_weights(number: int, node: Node, replayed: State) -> None:
    """Check that a node has the weights of every task, and those that the replay has led to."""
    state = node.services.executor.state
    for task_id in state.task_ids:
        task, name = state.get_task(task_id), task_id.hex()[:16]
        if task is None or (state.height == replayed.height and task != replayed.get_task(task_id)):
            raise Violation(f"node {number} has another record of task {name} than its blocks")
        data = node.services.storage.payloads.get(task.weights_root)
        if data is None or compute_content_hash(data) != task.weights_root:
            raise Violation(f"node {number} lacks the weights of task {name}")
