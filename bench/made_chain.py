"""A chain that nobody had to wait for: blocks built, executed and signed by one process.

Owns the making of such a chain in the home folder of a node that will serve it. Every block is
what validators would have decided: executed by the node's own executor, with a commit of all of
them. Never starts a node.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from quorate.chain.ids import Hash, Height, Round
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.task import AggregationRule, RoundPolicy, Stage, UpdateCodec
from quorate.chain.transaction import (
    Body,
    CreateTask,
    RegisterParticipant,
    SubmitUpdate,
    Transfer,
    compute_transaction_hash,
    decode_transaction,
)
from quorate.chain.vote import BlockId, Commit, VoteType, compute_vote_sign_bytes
from quorate.task_draft import draft_task

from bench.errors import BenchError
from bench.signing import make_key, sign
from ledger.aggregates import AggregateSource, InlineAggregates
from ledger.queries import TaskView, get_task
from ledger.state import State
from node.config import Config
from node.execution.aggregates import BackgroundAggregates
from node.execution.executor import BlockContents, ExecutedBlock, Executor
from node.execution.retention import Retention
from node.execution.stored_chain import initialize_storage, load_position
from node.home import Home
from node.mempool.verifier import TransactionVerifier
from store.chain_store import ChainStore
from store.database import Batch, LevelDatabase
from store.payload_contract import Payloads
from store.payloads import PayloadStore

PARTICIPANTS: Final = 4
"""Updates of each block that carries payloads; they close a training round."""
BLOCKS_PER_TRANSFER: Final = 10
BLOCK_TIME_MS: Final = 1_000
UPDATE_AMPLITUDE: Final = 2_000


class UnsyncedDatabase(LevelDatabase):
    """A database that nobody needs after a power failure: it never waits for the disk."""

    def write(self, batch: Batch, *, sync: bool) -> None:  # noqa: ARG002 - that is its point.
        """Apply a batch, all or nothing."""
        super().write(batch, sync=False)


@dataclass(slots=True)
class MadeChain:
    """A chain under construction.

    Attributes
    ----------
    executor : Executor
        Over the home's stores.
    payloads : Payloads
        Where payloads and weights are.
    retention : Retention
        Remembers which payloads the state has released, so that a node keeps them for a while.
    validators : list of PrivateKey
        Sign each commit.
    participants : list of PrivateKey
        Have coins; the first of them sends the transfers and creates the task.
    aggregates : AggregateSource, optional
        Where the executor has aggregates from.
    """

    executor: Executor
    payloads: Payloads
    retention: Retention
    validators: Sequence[PrivateKey]
    participants: Sequence[PrivateKey]
    aggregates: AggregateSource | None = None
    nonces: dict[bytes, int] = field(default_factory=dict)

    @property
    def payer(self) -> PrivateKey:
        """Who pays for transfers and creates the task."""
        return self.participants[0]

    async def decide(self, *entries: tuple[PrivateKey, Body]) -> ExecutedBlock:
        """Make one block of these transactions, and commit it."""
        return self._commit(await self._build([self._sign(key, body) for key, body in entries]))

    async def decide_when_ready(self, key: PrivateKey, body: Body) -> ExecutedBlock:
        """Make a block of one transaction as soon as what it waits for has been computed.

        Raises
        ------
        BenchError
            If nothing computes in the background.
        """
        if not isinstance(self.aggregates, BackgroundAggregates):
            raise BenchError("Nothing is computed in the background, so nothing becomes ready.")
        raw = self._sign(key, body)
        while True:
            done = self.aggregates.done
            executed = await self._build([raw])
            if executed.transaction_hashes:
                return self._commit(executed)
            await done.wait()

    async def _build(self, raws: Sequence[bytes]) -> ExecutedBlock:
        position = self.executor.position
        return await self.executor.build(
            position.validators.proposer.address,
            position.time_ms + BLOCK_TIME_MS,
            BlockContents(
                [(compute_transaction_hash(raw), raw, decode_transaction(raw)) for raw in raws]
            ),
        )

    def _commit(self, executed: ExecutedBlock) -> ExecutedBlock:
        self.executor.commit(self._sign_commit(executed.block_id))
        due_ms = executed.block.header.time_ms + executed.result.parameters.payload_retain_ms
        self.retention.release(executed.result.released_payloads, due_ms)
        return executed

    async def add_near_empty_blocks(self, count: int) -> None:
        """Add blocks of which one in `BLOCKS_PER_TRANSFER` holds a transfer."""
        for index in range(count):
            transfer = (self.payer, Transfer(self.validators[0].address, 1))
            await self.decide(*[transfer] * (index % BLOCKS_PER_TRANSFER == 0))

    async def add_payload_blocks(self, count: int, payload_bytes: int) -> int:
        """Add blocks of `PARTICIPANTS` updates each, which close a training round.

        Parameters
        ----------
        count : int
        payload_bytes : int
            Of each update; two for each parameter.

        Returns
        -------
        int
            The bytes of all payloads of these blocks.
        """
        policy = RoundPolicy(
            deadline_ms=count * BLOCK_TIME_MS,
            updates_min=PARTICIPANTS,
            updates_max=PARTICIPANTS,
            waive_proposer_spread=True,
        )
        weights = {"w": np.zeros(payload_bytes // 2, np.float32)}
        draft = draft_task("sync", weights, policy, rule=AggregationRule((Stage.MEAN,), 0))
        self.payloads.put(draft.weights)
        create = CreateTask(draft.spec)
        created = await self.decide((self.payer, create))
        task_id = created.transaction_hashes[0]
        await self.decide(*((key, RegisterParticipant(task_id)) for key in self.participants))
        generator = np.random.default_rng(0)
        for _ in range(count):
            await self.decide(
                *((key, self._draw_update(task_id, generator)) for key in self.participants)
            )
        return count * PARTICIPANTS * payload_bytes

    def get_task(self, task_id: Hash) -> TaskView:
        """Return a task of the chain.

        Raises
        ------
        BenchError
            If it is not there.
        """
        task = get_task(self.executor.state, task_id)
        if task is None:
            raise BenchError("The task that was just created is not there.")
        return task

    def _draw_update(self, task_id: Hash, generator: np.random.Generator) -> SubmitUpdate:
        dimension = self.get_task(task_id).spec.dimension
        values = generator.integers(-UPDATE_AMPLITUDE, UPDATE_AMPLITUDE, dimension, np.int16)
        return self.make_update(task_id, values.astype("<i2").tobytes())

    def make_update(self, task_id: Hash, payload: bytes) -> SubmitUpdate:
        """Store an update's payload, and return what submits it to the task's open round."""
        task = self.get_task(task_id)
        return SubmitUpdate(
            task_id,
            task.record.training_round,
            task.record.weights_root,
            UpdateCodec.DENSE_INT16,
            Hash(self.payloads.put(payload)),
            len(payload),
            1,
        )

    def _sign(self, key: PrivateKey, body: Body) -> bytes:
        nonce = self.nonces.get(key.address, 0)
        self.nonces[key.address] = nonce + 1
        return sign(key, nonce, body)

    def _sign_commit(self, block_id: BlockId) -> Commit:
        position = self.executor.position
        height = position.next_height
        message = compute_vote_sign_bytes(
            self.executor.chain_id, VoteType.PRECOMMIT, height, 0, block_id
        )
        by_address = {key.address: key for key in self.validators}
        signatures = tuple(
            by_address[validator.address].sign(Domain.VOTE, message)
            for validator in position.validators.validators
        )
        return Commit(Height(height), Round(0), block_id, signatures)


def list_participants(count: int = PARTICIPANTS) -> list[PrivateKey]:
    """Return the accounts that the chain's genesis must give coins to."""
    return [make_key("sync", index) for index in range(count)]


@contextmanager
def open_made_chain(
    home: Home,
    config: Config,
    validators: Sequence[PrivateKey],
    participants: Sequence[PrivateKey] | None = None,
    aggregates: AggregateSource | None = None,
) -> Iterator[MadeChain]:
    """Yield the chain of a home folder that has no blocks yet; on leaving, all is on the disk.

    Parameters
    ----------
    home : Home
    config : Config
    validators : sequence of PrivateKey
    participants : sequence of PrivateKey, optional
        By default those of `list_participants`.
    aggregates : AggregateSource, optional
        By default every aggregate is computed on the spot.

    Raises
    ------
    StorageError
        If the stores cannot be opened.
    """
    genesis = home.read_genesis()
    with home.lock(), ExitStack() as stack:
        database = UnsyncedDatabase(home.blocks_folder)
        stack.callback(database.close)
        journal = UnsyncedDatabase(home.mempool_folder)
        stack.callback(journal.close)
        payloads = PayloadStore(
            database,
            home.payloads_folder,
            inline_bytes_max=config.storage.payload_inline_bytes_max,
            total_bytes_max=config.storage.payload_bytes_max,
        )
        store = ChainStore(database)
        initialize_storage(store, genesis)
        state = State(store, genesis)
        executor = Executor(
            genesis,
            store,
            payloads,
            state,
            load_position(store, state),
            TransactionVerifier(genesis.chain_id),
            InlineAggregates() if aggregates is None else aggregates,
        )
        retention = Retention(journal, payloads, state.is_payload_needed, frozenset)
        keys = list_participants() if participants is None else participants
        yield MadeChain(executor, payloads, retention, validators, keys, aggregates)
