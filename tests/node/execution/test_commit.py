"""The executor's results: kept until the decision, written in durable order, executed once."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from quorate.chain.codec import decode
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import InvariantError, PendingError, StorageError
from quorate.chain.ids import Hash
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome
from quorate.chain.transaction import (
    ChangeTaskStatus,
    FinalizeTrainingRound,
    TaskStatus,
    Transfer,
)
from quorate.chain.vote import Commit

from ledger.aggregates import AggregateInputs, AggregateOutput
from ledger.execution import BlockExecution, ExecutionResult
from ledger.queries import get_task
from node.execution.executor import RESULTS_MAX, BlockContents
from store.chain_store import ChainStore
from store.database import Batch, MemoryDatabase
from store.errors import DiskFull
from store.memory_payloads import MemoryPayloadStore
from tests.node.cluster import USERS, make_genesis, sign
from tests.node.execution.chain import VALIDATORS, Entry, ExecutionChain, Training, make_entry

ROOT = Path(__file__).parents[3]


class LateAggregates:
    """Has no result until told; then computes on the spot."""

    def __init__(self) -> None:
        self.is_ready = False

    def get(
        self,
        inputs: AggregateInputs,  # noqa: ARG002 - the source's interface.
        compute: Callable[[], AggregateOutput],
        /,
    ) -> AggregateOutput | None:
        return compute() if self.is_ready else None


class RecordingPayloads(MemoryPayloadStore):
    """Tells what is done to it."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def put(self, data: bytes, *, sync: bool = True) -> bytes:  # type: ignore[override]
        self.events.append("put")
        return super().put(data, sync=sync)

    def sync(self) -> None:
        self.events.append("sync")
        super().sync()


class RecordingDatabase(MemoryDatabase):
    """Tells of synced writes, and fails when told to."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events
        self.is_full = False

    def write(self, batch: Batch, *, sync: bool) -> None:
        if self.is_full:
            raise DiskFull("the disk is full: make room and start the node again")
        self.events.append("batch" if sync else "unsynced batch")
        super().write(batch, sync=sync)


async def make_sealing_chain(
    events: list[str],
) -> tuple[ExecutionChain, RecordingDatabase, list[Entry]]:
    """Return a chain whose next block, with the entries returned, seals a training round."""
    database = RecordingDatabase(events)
    chain = ExecutionChain(make_genesis(), database=database, payloads=RecordingPayloads(events))
    training = Training(chain, 50, 2)
    await training.begin()
    entries = [training.make_update(user, user)[0] for user in range(2)]
    events.clear()
    return chain, database, entries


async def test_weights_are_durable_before_the_block_and_the_block_before_the_state() -> None:
    events: list[str] = []
    chain, _, entries = await make_sealing_chain(events)
    executed = await chain.build(*entries)
    assert len(executed.result.artifacts) == 1
    events.clear()
    root, height = chain.executor.state.root, chain.executor.position.height
    chain.commit(executed)
    assert events == ["put", "sync", "batch"]
    assert chain.executor.state.root == executed.result.state_root != root
    assert chain.executor.position.height == height + 1
    reopened = chain.payloads.reopen()
    assert all(reopened.has(name) for name in executed.result.artifacts)


async def test_weights_that_are_stored_are_synced_and_not_hashed_again() -> None:
    events: list[str] = []
    chain, _, entries = await make_sealing_chain(events)
    executed = await chain.build(*entries)
    (weights,) = executed.result.artifacts.values()
    # As the thread that computed them does.
    chain.payloads.put(bytes(weights), sync=False)
    events.clear()
    chain.commit(executed)
    assert events == ["sync", "batch"]
    reopened = chain.payloads.reopen()
    assert all(reopened.has(name) for name in executed.result.artifacts)


async def test_a_store_that_fails_leaves_everything_at_the_height_before() -> None:
    events: list[str] = []
    chain, database, entries = await make_sealing_chain(events)
    executed = await chain.build(*entries)
    before, root = chain.executor.position, chain.executor.state.root
    database.is_full = True
    with pytest.raises(StorageError, match="make room"):
        chain.commit(executed)
    assert chain.executor.position == before
    assert chain.executor.state.root == root
    assert ChainStore(database).height == before.height
    # The node stops and comes back; the same block can then be committed.
    database.is_full = False
    chain.open()
    assert chain.executor.position == before
    await chain.executor.judge(executed.block_id, executed.raw)
    chain.commit(executed)
    assert chain.executor.state.root == executed.result.state_root


async def test_a_valid_block_is_voted_for_only_with_its_payloads_durable() -> None:
    events: list[str] = []
    chain, _, entries = await make_sealing_chain(events)
    chain.payloads.put(b"pulled for this block", sync=False)
    await chain.build(*entries)
    assert chain.payloads.reopen().has(Hash(chain.payloads.put(b"pulled for this block")))
    assert "sync" in events


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    finished: list[int] = []
    finish = BlockExecution.finish

    def count(self: BlockExecution) -> ExecutionResult:
        result = finish(self)
        finished.append(result.height)
        return result

    monkeypatch.setattr(BlockExecution, "finish", count)
    return finished


async def test_a_decided_block_was_executed_once(executions: list[int]) -> None:
    genesis = make_genesis()
    chain, other = ExecutionChain(genesis), ExecutionChain(genesis)
    for _ in range(3):
        executed = await chain.build(chain.make_entry(0, Transfer(USERS[1].address, 1)))
        commit = chain.sign_commit(executed.block_id)
        for each in (chain, other):
            for _ in range(2):
                await each.executor.judge(executed.block_id, executed.raw)
            each.executor.commit(commit)
    assert executions == [1, 1, 2, 2, 3, 3]


async def test_candidates_of_a_height_are_bounded() -> None:
    chain = ExecutionChain(make_genesis())
    built = [
        await chain.build(time_ms=chain.next_time_ms + offset) for offset in range(RESULTS_MAX + 2)
    ]
    kept = [chain.executor.get_executed(each.block_id.hash) is not None for each in built]
    assert kept == [False] * 2 + [True] * RESULTS_MAX
    with pytest.raises(InvariantError, match="not executed"):
        chain.commit(built[0])
    # What made room is executed again when it is needed after all.
    await chain.executor.judge(built[0].block_id, built[0].raw)
    chain.commit(built[0])
    assert chain.executor.get_executed(built[-1].block_id.hash) is None


async def test_all_missing_payloads_are_named_at_once() -> None:
    genesis = make_genesis()
    chain, other = ExecutionChain(genesis), ExecutionChain(genesis)
    training = Training(chain, 50, 4)
    await training.begin()
    for height in (1, 2):
        raw = chain.store.load_block(height)
        assert raw is not None
        other.payloads.put(chain.payloads.get(next(chain.payloads.iterate_hashes())) or b"")
        await _follow_stored(chain, other, height)
    updates = [training.make_update(user, user) for user in range(4)]
    executed = await chain.build(*(entry for entry, _ in updates))
    for _, payload in updates[1:2]:
        other.payloads.put(payload)
    with pytest.raises(PendingError) as caught:
        await other.executor.judge(executed.block_id, executed.raw)
    missing = [compute_content_hash(payload) for _, payload in updates]
    assert caught.value.missing_payloads == (missing[0], missing[2], missing[3])
    for _, payload in updates:
        other.payloads.put(payload)
    judged = await other.executor.judge(executed.block_id, executed.raw)
    assert judged.result.model_root == executed.result.model_root


async def _follow_stored(chain: ExecutionChain, other: ExecutionChain, height: int) -> None:
    raw, commit_raw = chain.store.load_block(height), chain.store.load_commit(height)
    assert raw is not None
    assert commit_raw is not None
    commit = decode(Commit, commit_raw, 10_000)
    await other.executor.judge(commit.block_id, raw)
    other.executor.commit(commit)


async def test_an_aggregate_at_work_is_no_verdict_and_then_one() -> None:
    aggregates = LateAggregates()
    chain = ExecutionChain(make_genesis(), aggregates)
    training = Training(chain, 50, 2)
    await training.begin()
    entries = [training.make_update(user, user)[0] for user in range(2)]
    with pytest.raises(PendingError):
        await chain.build(*entries)
    aggregates.is_ready = True
    executed = await chain.build(*entries)
    assert [r.outcome for r in executed.result.receipts.rounds] == [RoundOutcome.FINALIZED]


class Overtaken(list[Entry]):
    """Entries during whose execution the height is decided."""

    def __init__(self, entries: list[Entry], decide: Callable[[], object]) -> None:
        super().__init__(entries)
        self.decide = decide

    def __iter__(self) -> Iterator[Entry]:
        for index, entry in enumerate(super().__iter__()):
            if index == 1:
                self.decide()
            yield entry


async def test_an_execution_overtaken_by_the_decision_is_moot() -> None:
    chain = ExecutionChain(make_genesis())
    rival = await chain.build()
    entries = [chain.make_entry(0, Transfer(USERS[1].address, 1)) for _ in range(2)]
    contents = BlockContents(Overtaken(entries, lambda: chain.commit(rival)))
    with pytest.raises(PendingError, match="committed while"):
        await chain.executor.build(rival.block.header.proposer, chain.next_time_ms, contents)
    assert len((await chain.build(*entries)).transaction_hashes) == 2


async def find_model_roots(dimension: int) -> set[str]:
    """Return the model roots after one training round, for twenty orders of arrival."""
    roots = set()
    for seed in range(20):
        chain = ExecutionChain(
            make_genesis(
                genesis_time_ms=1_700_000_000_000,
                parameters=ConsensusParameters(aggregation_cost_block_max=10**9),
            )
        )
        training = Training(chain, dimension, 6)
        await training.begin()
        entries = [training.make_update(user, 7 * user)[0] for user in range(6)]
        Random(seed).shuffle(entries)
        # Some blocks hold several, some one: the order in and over blocks does not matter.
        for start, stop in ((0, 1), (1, 4), (4, 6)):
            await chain.decide(*entries[start:stop])
        task = get_task(chain.executor.state, training.task_id)
        assert task is not None
        assert task.record.training_round == 1
        roots.add(chain.executor.position.model_root.hex())
    return roots


async def test_twenty_orders_of_arrival_give_one_model_root() -> None:
    assert len(await find_model_roots(300)) == 1


def test_one_model_root_whatever_the_threads_and_the_hash_seed() -> None:
    program = (
        "import trio; from tests.node.execution.test_commit import find_model_roots as f; "
        "print(*trio.run(f, 70_000))"
    )
    roots = set()
    for threads, hash_seed in (("1", "0"), ("2", "0"), ("1", "1"), ("2", "4242")):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            cwd=ROOT,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")]),
                "OPENBLAS_NUM_THREADS": threads,
                "PYTHONHASHSEED": hash_seed,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        roots.update(line for line in done.stdout.split() if len(line) == 64)
    assert len(roots) == 1


async def test_a_frozen_round_is_due_until_a_block_carries_its_result() -> None:
    chain = ExecutionChain(
        make_genesis(parameters=ConsensusParameters(aggregation_cost_block_max=0))
    )
    training = Training(chain, 50, 2)
    await training.begin()
    await chain.decide(*(training.make_update(user, user)[0] for user in range(2)))
    assert chain.executor.finalizations_due == ((training.task_id, 0),)
    chain.open()
    assert chain.executor.finalizations_due == ((training.task_id, 0),)
    body = FinalizeTrainingRound(training.task_id, 0)
    proposer = chain.executor.position.validators.proposer.address
    key = next(each for each in VALIDATORS if each.address == proposer)
    executed = await chain.decide(make_entry(sign(key, 0, body)))
    assert [r.outcome for r in executed.result.receipts.rounds] == [RoundOutcome.FINALIZED]
    assert chain.executor.finalizations_due == ()


def count_created(chain: ExecutionChain) -> int:
    return chain.executor.state.indexes.get_created_count(USERS[0].address)


async def test_an_account_s_tasks_are_counted_the_same_however_a_node_came_to_its_height() -> None:
    """Blocks are judged by that count: no restart, catching up or going back may change it."""
    chain, follower = ExecutionChain(), ExecutionChain()
    for number in range(3):
        training = Training(chain, 10, 1, name=f"task-{number}")
        await training.begin()
        completion = ChangeTaskStatus(training.task_id, TaskStatus.COMPLETED)
        await chain.decide(chain.make_entry(0, completion))
        assert count_created(chain) == number + 1
    top = chain.executor.position.height
    follower.payloads = chain.payloads
    follower.open()
    counts = []
    for height in range(1, top + 1):
        await _follow_stored(chain, follower, height)
        counts.append(count_created(follower))
    # A task's creation, a registration, and its completion.
    assert counts == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    for height in range(top, 1, -1):
        chain.open()
        assert (chain.executor.position.height, count_created(chain)) == (height, counts.pop())
        chain.store.rollback()
    chain.open()
    assert count_created(chain) == 1
    # The blocks that were taken back are executed again.
    for height in range(2, top + 1):
        await _follow_stored(follower, chain, height)
    assert count_created(chain) == 3
