"""One node's execution over memory storage, with the keys of all validators at hand.

Owns the making of such chains for tests: blocks built and committed without any consensus.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace
from quorate.chain.block import (
    Block,
    Header,
    compute_block_id,
    compute_last_commit_root,
    compute_transactions_root,
)
from quorate.chain.codec import encode
from quorate.chain.content import compute_content_hash
from quorate.chain.genesis import Genesis
from quorate.chain.ids import NO_HASH, Hash, Height, Round, Signature
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.merkle import compute_root
from quorate.chain.task import (
    AggregationRule,
    OptimizerName,
    RoundPolicy,
    ServerOptimizer,
    Stage,
    TaskSpec,
    TensorSpec,
    UpdateCodec,
)
from quorate.chain.transaction import (
    Body,
    CreateTask,
    RegisterParticipant,
    SignedTransaction,
    SubmitUpdate,
    compute_transaction_hash,
    decode_transaction,
)
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import BlockId, Commit, Vote, VoteType, compute_vote_sign_bytes

from ledger.aggregates import AggregateSource, InlineAggregates
from ledger.queries import get_task
from ledger.state import State
from node.execution.executor import BlockContents, ExecutedBlock, Executor
from node.execution.stored_chain import initialize_storage, load_position
from node.mempool.verifier import TransactionVerifier
from store.chain_store import ChainStore
from store.database import MemoryDatabase
from store.memory_payloads import MemoryPayloadStore
from tests.node.cluster import CHAIN_ID, USERS, make_genesis, make_key, sign

VALIDATORS = [make_key(1 + i) for i in range(4)]
Entry = tuple[Hash, bytes, SignedTransaction]


def make_entry(raw: bytes) -> Entry:
    return compute_transaction_hash(raw), raw, decode_transaction(raw)


def sign_vote(
    key: PrivateKey,
    type_: VoteType,
    height: int,
    block_id: BlockId | None,
    round_: int = 0,
    chain_id: str = CHAIN_ID,
) -> Vote:
    message = compute_vote_sign_bytes(chain_id, type_, height, round_, block_id)
    return Vote(
        type_,
        Height(height),
        Round(round_),
        block_id,
        key.address,
        key.sign(Domain.VOTE, message),
    )


def make_commit(
    validators: ValidatorSet,
    keys: Sequence[PrivateKey],
    height: int,
    block_id: BlockId,
    round_: int = 0,
) -> Commit:
    by_address = {key.address: key for key in keys}
    signatures = tuple(
        sign_vote(
            by_address[validator.address], VoteType.PRECOMMIT, height, block_id, round_
        ).signature
        if validator.address in by_address
        else Signature(b"")
        for validator in validators.validators
    )
    return Commit(Height(height), Round(round_), block_id, signatures)


def rebuild(
    executed: ExecutedBlock, change: Callable[[Block], Block], *, is_consistent: bool = True
) -> tuple[BlockId, bytes]:
    """Return id and bytes of a block after a change; its own roots follow if `is_consistent`."""
    block = change(executed.block)
    if is_consistent:
        header = replace(
            block.header,
            transactions_root=compute_transactions_root(block.transactions),
            evidence_root=compute_root(block.evidence),
            last_commit_root=compute_last_commit_root(block.last_commit),
        )
        block = replace(block, header=header)
    raw = encode(block)
    return compute_block_id(block, raw), raw


def change_header(**changes: object) -> Callable[[Block], Block]:
    def change(block: Block) -> Block:
        header: Header = replace(block.header, **changes)
        return replace(block, header=header)

    return change


@dataclass
class ExecutionChain:
    """An executor, and what it stands on."""

    genesis: Genesis = field(default_factory=make_genesis)
    aggregates: AggregateSource = field(default_factory=InlineAggregates)
    database: MemoryDatabase = field(default_factory=MemoryDatabase)
    payloads: MemoryPayloadStore = field(default_factory=MemoryPayloadStore)
    nonces: dict[int, int] = field(default_factory=dict)
    executor: Executor = field(init=False)
    store: ChainStore = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Begin with what is stored, as a node does when it starts."""
        self.store = ChainStore(self.database)
        initialize_storage(self.store, self.genesis)
        state = State(self.store, self.genesis)
        self.executor = Executor(
            self.genesis,
            self.store,
            self.payloads,
            state,
            load_position(self.store, state),
            TransactionVerifier(self.genesis.chain_id),
            self.aggregates,
        )

    @property
    def next_time_ms(self) -> int:
        return self.executor.position.time_ms + 100

    def make_entry(self, user: int, body: Body, *, fee: int = 0) -> Entry:
        nonce = self.nonces.get(user, 0)
        self.nonces[user] = nonce + 1
        return make_entry(sign(USERS[user], nonce, body, fee))

    async def build(
        self, *entries: Entry, evidence: tuple[object, ...] = (), time_ms: int | None = None
    ) -> ExecutedBlock:
        contents = BlockContents(entries, evidence)  # type: ignore[arg-type]
        proposer = self.executor.position.validators.proposer.address
        return await self.executor.build(proposer, time_ms or self.next_time_ms, contents)

    def sign_commit(self, block_id: BlockId, signers: int = 4) -> Commit:
        position = self.executor.position
        return make_commit(
            position.validators, VALIDATORS[:signers], position.next_height, block_id
        )

    def commit(self, executed: ExecutedBlock) -> ExecutedBlock:
        return self.executor.commit(self.sign_commit(executed.block_id))

    async def decide(self, *entries: Entry, evidence: tuple[object, ...] = ()) -> ExecutedBlock:
        return self.commit(await self.build(*entries, evidence=evidence))


@dataclass
class Training:
    """A task with participants on such a chain; user 0 created it, users 0 to n-1 take part."""

    chain: ExecutionChain
    dimension: int
    participants: int
    task_id: Hash = NO_HASH
    name: str = "digits"

    async def begin(self) -> None:
        initial = np.zeros(self.dimension, "<i4").tobytes()
        self.chain.payloads.put(initial)
        spec = TaskSpec(
            name=self.name,
            tensors=(TensorSpec("w", (self.dimension,), 16, 12),),
            initial_weights_root=compute_content_hash(initial),
            rule=AggregationRule((Stage.MEAN,), 0),
            optimizer=ServerOptimizer(OptimizerName.SGD),
            codec=UpdateCodec.DENSE_INT16,
            policy=RoundPolicy(
                deadline_ms=60_000,
                updates_min=self.participants,
                updates_max=self.participants,
                waive_proposer_spread=True,
            ),
            example_count_max=0,
        )
        create = self.chain.make_entry(0, CreateTask(spec))
        self.task_id = create[0]
        await self.chain.decide(create)
        await self.chain.decide(
            *(
                self.chain.make_entry(user, RegisterParticipant(self.task_id))
                for user in range(self.participants)
            )
        )

    def make_update(self, user: int, value: int, *, is_stored: bool = True) -> tuple[Entry, bytes]:
        task = get_task(self.chain.executor.state, self.task_id)
        assert task is not None
        payload = (np.arange(self.dimension) % 5 + value).astype("<i2").tobytes()
        if is_stored:
            self.chain.payloads.put(payload)
        body = SubmitUpdate(
            self.task_id,
            task.record.training_round,
            task.record.weights_root,
            UpdateCodec.DENSE_INT16,
            compute_content_hash(payload),
            len(payload),
            10,
        )
        return self.chain.make_entry(user, body), payload
