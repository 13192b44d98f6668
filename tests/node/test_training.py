"""Training over whole nodes: updates travel, rounds seal, every node has the same weights."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import trio
from msgspec.structs import replace
from quorate.chain.block import Block
from quorate.chain.codec import decode
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.merkle import EMPTY_ROOT
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import BlockReceipts, RoundOutcome, RoundReceipt
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
    CreateTask,
    RegisterParticipant,
    SubmitUpdate,
    decode_transaction,
)

from ledger.queries import TaskView, get_task
from tests.node.cluster import (
    USERS,
    Cluster,
    make_config,
    make_genesis,
    open_cluster,
    sign,
)

PARTICIPANTS = USERS[:5]
SGD = ServerOptimizer(OptimizerName.SGD)
ADAM = ServerOptimizer(
    OptimizerName.ADAM, momentum=58_982, second_moment_decay=64_880, adaptivity=66
)


def make_spec(
    dimension: int,
    initial: bytes,
    name: str = "digits",
    optimizer: ServerOptimizer = SGD,
    **policy: object,
) -> TaskSpec:
    settings: dict[str, object] = {
        "deadline_ms": 60_000,
        "updates_min": 5,
        "updates_max": 5,
        "waive_proposer_spread": True,
    }
    return TaskSpec(
        name=name,
        tensors=(TensorSpec("w", (dimension,), 16, 12),),
        initial_weights_root=compute_content_hash(initial),
        rule=AggregationRule((Stage.CLIP, Stage.NNM, Stage.TRIMMED_MEAN), 1),
        optimizer=optimizer,
        codec=UpdateCodec.DENSE_INT16,
        policy=RoundPolicy(**(settings | policy)),  # type: ignore[arg-type]
        example_count_max=0,
    )


class Trainer:
    """Submits what participants would, through different nodes of a cluster."""

    def __init__(
        self,
        cluster: Cluster,
        dimension: int,
        name: str = "digits",
        keys: Sequence[PrivateKey] = PARTICIPANTS,
    ) -> None:
        self.cluster = cluster
        self.dimension = dimension
        self.name = name
        self.keys = keys
        self.nonces = dict.fromkeys(range(len(keys)), 0)
        self.task_id = Hash(b"")

    async def submit(
        self,
        user: int,
        body: CreateTask | RegisterParticipant | SubmitUpdate,
        payload: bytes | None,
    ) -> Hash:
        member = self.cluster.members[user % len(self.cluster.members)]
        raw = sign(self.keys[user], self.nonces[user], body)
        outcome = await member.running.services.mempool.submit_local(raw, payload)
        self.nonces[user] += 1
        return outcome.hash

    async def begin(self, optimizer: ServerOptimizer = SGD, **policy: object) -> None:
        initial = np.zeros(self.dimension, "<i4").tobytes()
        body = CreateTask(make_spec(self.dimension, initial, self.name, optimizer, **policy))
        self.task_id = await self.submit(0, body, initial)
        await self.wait(lambda: all(task is not None for task in self.find_tasks()))
        for user in range(len(self.keys)):
            await self.submit(user, RegisterParticipant(self.task_id), None)
        count = len(self.keys)
        await self.wait(lambda: all(t.record.registered_count == count for t in self.tasks()))

    def make_update(
        self, user: int, values: np.ndarray, **changes: object
    ) -> tuple[SubmitUpdate, bytes]:
        task = self.tasks()[user % len(self.cluster.members)]
        payload = values.astype("<i2").tobytes()
        body = SubmitUpdate(
            self.task_id,
            task.record.training_round,
            task.record.weights_root,
            UpdateCodec.DENSE_INT16,
            compute_content_hash(payload),
            len(payload),
            10,
        )
        return replace(body, **changes), payload

    async def update(self, user: int, values: np.ndarray) -> None:
        await self.submit(user, *self.make_update(user, values))

    def find_tasks(self) -> list[TaskView | None]:
        return [
            get_task(member.running.services.executor.state, self.task_id)
            for member in self.cluster.members
        ]

    def tasks(self) -> list[TaskView]:
        found = [task for task in self.find_tasks() if task is not None]
        assert len(found) == len(self.cluster.members)
        return found

    async def wait_for_round(self, number: int) -> None:
        await self.wait(lambda: all(t.record.training_round >= number for t in self.tasks()))

    async def wait(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(30):
            while not condition():  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def run_round(self, number: int, scale: int = 100) -> None:
        for user in range(len(PARTICIPANTS)):
            sign_ = -20 if user == 4 else 1  # One of five is hostile.
            values = np.arange(self.dimension) % 7 * sign_ * scale // 100 + user
            await self.update(user, values)
        await self.wait_for_round(number + 1)

    def count_transactions(self, sender: PrivateKey) -> list[int]:
        """How many transactions of a sender each block has that has one."""
        chain = self.cluster.members[0].running.services.storage.chain
        counts = []
        for height in range(1, chain.height + 1):
            stored = chain.load_block(height)
            assert stored is not None
            block = decode(Block, stored, len(stored))
            own = [decode_transaction(raw).sender == sender.address for raw in block.transactions]
            counts.append(sum(own))
        return [count for count in counts if count]

    def get_receipts(self, member: int) -> list[RoundReceipt]:
        chain = self.cluster.members[member].running.services.storage.chain
        found: list[RoundReceipt] = []
        for height in range(1, chain.height + 1):
            raw = chain.load_receipts(height)
            assert raw is not None
            found.extend(decode(BlockReceipts, raw, len(raw)).rounds)
        return found


@pytest.mark.parametrize("dimension", [50, 40_000])
async def test_rounds_finalize_with_equal_weights_everywhere(
    tmp_path: Path, dimension: int
) -> None:
    # 40,000 parameters make payloads of 80 kB, which don't ride along and are pulled.
    async with open_cluster(tmp_path) as cluster:
        trainer = Trainer(cluster, dimension)
        await trainer.begin()
        first = trainer.tasks()[0].record.training_round
        for number in range(first, first + 2):
            await trainer.run_round(number)
        tasks = trainer.tasks()
        assert len({task.record.weights_root for task in tasks}) == 1
        weights = [
            member.running.services.storage.payloads.get(task.record.weights_root)
            for member, task in zip(cluster.members, tasks, strict=True)
        ]
        assert len(set(weights)) == 1
        values = np.frombuffer(weights[0] or b"", "<i4")
        # Two rounds of about the honest update, at 16 - 12 more fraction bits.
        assert 0 < values[6] / 16 < 2 * 12
        receipts = [trainer.get_receipts(member) for member in range(4)]
        finalized = [r for r in receipts[0] if r.outcome is RoundOutcome.FINALIZED]
        assert len(finalized) == 2
        hostile = PARTICIPANTS[4].address
        assert all(
            [u.participant for u in r.updates if u.is_set_aside] == [hostile] for r in finalized
        )


async def test_an_expensive_round_is_frozen_and_finalized_in_a_later_block(
    tmp_path: Path,
) -> None:
    genesis = make_genesis(parameters=ConsensusParameters(aggregation_cost_block_max=10))
    async with open_cluster(tmp_path, genesis=genesis) as cluster:
        trainer = Trainer(cluster, 300_000)
        await trainer.begin()
        await trainer.run_round(trainer.tasks()[0].record.training_round)
        outcomes = [receipt.outcome for receipt in trainer.get_receipts(0)]
        assert outcomes == [RoundOutcome.FROZEN, RoundOutcome.FINALIZED]
        assert len({task.record.weights_root for task in trainer.tasks()}) == 1


async def test_a_round_seals_at_its_deadline_without_further_transactions(
    tmp_path: Path,
) -> None:
    config = make_config(create_empty_blocks=False)
    async with open_cluster(tmp_path, config=config) as cluster:
        trainer = Trainer(cluster, 20)
        await trainer.begin(deadline_ms=1_500, updates_min=4)
        number = trainer.tasks()[0].record.training_round
        for user in range(4):
            await trainer.update(user, np.full(20, 5 + user))
        await trainer.wait_for_round(number + 1)


async def test_a_second_update_in_a_round_is_refused_and_not_stored(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, validators=1) as cluster:
        trainer = Trainer(cluster, 20)
        await trainer.begin()
        await trainer.update(1, np.full(20, 5))
        services = cluster.members[0].running.services
        await trainer.wait(lambda: services.mempool.count == 0)
        stored = services.storage.payloads.bytes_total
        with pytest.raises(TransactionError) as caught:
            await trainer.update(1, np.full(20, 6))
        assert caught.value.code is ErrorCode.DUPLICATE_UPDATE
        assert services.storage.payloads.bytes_total == stored


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
async def test_training_goes_on_after_all_nodes_restart(
    tmp_path: Path, optimizer: ServerOptimizer
) -> None:
    async with open_cluster(tmp_path) as cluster:
        trainer = Trainer(cluster, 50)
        await trainer.begin(optimizer)
        number = trainer.tasks()[0].record.training_round
        assert {task.record.optimizer_root for task in trainer.tasks()} == {EMPTY_ROOT}
        for user in range(3):
            await trainer.update(user, np.full(50, 5 + user))
        for member in cluster.members:
            await cluster.stop(member)
        for member in cluster.members:
            await cluster.start(member)
        for user in range(3, 5):
            await trainer.update(user, np.full(50, 5 + user))
        await trainer.wait_for_round(number + 1)
        tasks = trainer.tasks()
        assert len({task.record.weights_root for task in tasks}) == 1
        (state_root,) = {task.record.optimizer_root for task in tasks}
        assert (state_root == EMPTY_ROOT) is (optimizer is SGD)
        await trainer.run_round(number + 1)
        assert len({task.record.optimizer_root for task in trainer.tasks()}) == 1
