"""The SDK against the node itself: a chain of one validator, its RPC on a real port."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import trio
from quorate import (
    AggregationRule,
    AsyncClient,
    AsyncParticipant,
    Client,
    Participant,
    PrivateKey,
    RoundInfo,
    RoundPolicy,
    RoundResult,
    RpcError,
    Stage,
    TaskClosedError,
    draft_task,
)
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome
from quorate.chain.round_policy import RoundMode
from quorate.chain.transaction import RegisterParticipant, Transaction, sign_transaction
from quorate.fixed_point import Array
from quorate.rpc_types import Task
from quorate.submissions import Measurement

from tests.node.cluster import make_genesis
from tests.node.rpc.serving import open_rpc

PARTICIPANTS = tuple(PrivateKey(bytes([0x71 + i]) * 32) for i in range(2))
AUTHORITY = PrivateKey(b"\x70" * 32)
NAME = "north/digits"


def add_a_quarter(weights: list[Array], _info: RoundInfo) -> list[Array]:
    return [weights[0] + np.float32(0.25), weights[1]]  # type: ignore[operator]


async def make_task(client: AsyncClient, updates: int, rounds_max: int = 0) -> Task:
    draft = draft_task(
        NAME,
        {"kernel": np.ones((4, 3)), "bias": np.zeros(3)},
        RoundPolicy(600_000, updates, updates, waive_proposer_spread=True, rounds_max=rounds_max),
        rule=AggregationRule((Stage.MEAN,), 0),
    )
    created = await client.create_task(AUTHORITY, draft.spec, draft.weights)
    await client.wait_for_transaction(created.hash)
    return await client.task(created.hash)


async def test_every_answer_of_a_node_is_understood(tmp_path: Path) -> None:
    async with open_rpc(tmp_path) as served, AsyncClient(served.url) as client:
        task = await make_task(client, updates=1)
        assert (await client.task(NAME)) == task
        assert [summary.name for summary in await client.tasks()] == [NAME]
        status = await client.status()
        assert status.genesis_hash == (await client.genesis()).hash
        block = await client.block(status.height)
        header, commit = await client.commit(status.height)
        assert block.header == header
        assert commit.block_id.hash == header.hash == status.block_hash
        validators = await client.validators(status.height)
        assert validators.root == header.validators_root
        info = await client.transaction(task.task_id)
        assert (info.is_decided, info.is_success) == (True, True)
        assert (await client.account(AUTHORITY.address)).nonce == 1
        weights = await client.weights(task)
        assert weights.root == task.weights_root == task.spec.initial_weights_root
        height, leaf, _ = await client.proof(task)
        assert height >= status.height
        assert leaf.weights_root == weights.root
        with pytest.raises(RpcError, match="unknown_task"):
            await client.task("none")
        with pytest.raises(RpcError, match="not_found"):
            await client.transaction(bytes(32))
        with pytest.raises(RpcError, match="HTTP 4"):
            await client.transfer(AUTHORITY, bytes(20), 2**60)
        verified = await client.get_verified_weights(NAME, served.cluster.genesis)
        assert verified.data == weights.data


async def test_participants_train_over_a_node(tmp_path: Path) -> None:
    async with open_rpc(tmp_path) as served, AsyncClient(served.url) as client:
        await make_task(client, updates=2, rounds_max=3)
        genesis = served.cluster.genesis
        rounds: list[tuple[int, bool, RoundOutcome]] = []

        async def take_part(key: PrivateKey) -> None:
            async with AsyncClient(served.url) as own:
                participant = AsyncParticipant(own, key, NAME, add_a_quarter, trusted=genesis)
                results = await participant.run(5)
            rounds.extend((r.training_round, r.is_counted, r.outcome) for r in results)

        def take_part_blocking(url: str, key: PrivateKey) -> list[Array]:
            with Client(url) as own:
                participant = Participant(own, key, NAME, add_a_quarter, trusted=genesis)
                return participant.run(5)[-1].weights

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_part, PARTICIPANTS[0])
                weights = await trio.to_thread.run_sync(
                    take_part_blocking, served.url, PARTICIPANTS[1]
                )
        assert [number for number, _, _ in rounds] == [0, 1, 2]
        assert {(counted, outcome) for _, counted, outcome in rounds} == {
            (True, RoundOutcome.FINALIZED)
        }
        np.testing.assert_allclose(weights[0], 1.75, atol=1e-4)
        assert [p.address for p in await client.participants(NAME)]
        with pytest.raises(TaskClosedError, match="completed"):
            await AsyncParticipant(client, PARTICIPANTS[0], NAME, add_a_quarter).run(1)


async def test_events_of_a_node(tmp_path: Path) -> None:
    async with open_rpc(tmp_path) as served, AsyncClient(served.url) as client:
        task = await make_task(client, updates=1)
        seen: list[str] = []

        async def listen(started: trio.Event) -> None:
            events = client.events(["block", "training_round"])
            async for event in events:
                seen.append(event.type)
                started.set()
                if event.type == "training_round":
                    assert event.data["task_id"] == task.task_id.hex()
                    break
            await events.aclose()  # type: ignore[attr-defined]

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                started = trio.Event()
                nursery.start_soon(listen, started)
                await started.wait()
                participant = AsyncParticipant(client, PARTICIPANTS[0], task, add_a_quarter)
                result = await participant.train_round()
                await participant.aclose()
        assert "block" in seen
        await client.submit_evaluation(
            PARTICIPANTS[0], task, Measurement(1, result.verified.weights_root, 0.5, 10)
        )


async def test_a_batch_is_judged_one_by_one(tmp_path: Path) -> None:
    async with open_rpc(tmp_path) as served, AsyncClient(served.url) as client:
        chain_id = (await client.genesis()).chain_id
        register = RegisterParticipant((await make_task(client, updates=1)).task_id)
        key = PARTICIPANTS[0]
        good = [
            sign_transaction(key, Transaction(1, chain_id, key.public_key, nonce, 0, register))
            for nonce in range(2)
        ]
        results = await client.submit_many([(b"\x00", None), (good[0], None), (good[1], None)])
        assert [result.code for result in results][:2] == ["malformed", None]
        assert results[0].detail
        await client.wait_for_transaction(results[1].hash)
        (again,) = await client.submit_many([(good[0], None)])
        assert again.status == "decided"


@pytest.mark.parametrize("cost_max", [0, 10**6])
async def test_participants_of_an_asynchronous_task_wait_for_nobody(
    tmp_path: Path, cost_max: int
) -> None:
    """Two are quick and fill the buffers; a slow one's updates are stale, and count all the same.

    With a `cost_max` of 0 every buffer is frozen first.
    """
    genesis = make_genesis(1, parameters=ConsensusParameters(aggregation_cost_block_max=cost_max))
    policy = RoundPolicy(
        600_000,
        2,
        2,
        waive_proposer_spread=True,
        rounds_max=12,
        mode=RoundMode.ASYNCHRONOUS,
        staleness_max=12,
    )
    slow_key = PrivateKey(b"\x73" * 32)
    results: dict[bytes, list[RoundResult]] = {}

    async with open_rpc(tmp_path, genesis=genesis) as served, AsyncClient(served.url) as client:
        draft = draft_task(NAME, [np.zeros(3)], policy, rule=AggregationRule((Stage.MEAN,), 0))
        created = await client.create_task(AUTHORITY, draft.spec, draft.weights)
        await client.wait_for_transaction(created.hash)

        is_slow_one_training = threading.Event()

        async def take_part(key: PrivateKey) -> None:
            def fit(weights: list[Array], _info: RoundInfo) -> list[Array]:
                if key is slow_key:
                    is_slow_one_training.set()
                # In a thread of its own: others go on.
                time.sleep(0.6 if key is slow_key else 0.1)
                return [weights[0] + np.float32(0.25)]  # type: ignore[operator]

            async with AsyncClient(served.url) as own:
                participant = AsyncParticipant(own, key, NAME, fit, trusted=genesis)
                if key is not slow_key:
                    # On a busy machine all could be over before the slow one has begun.
                    await trio.to_thread.run_sync(is_slow_one_training.wait)
                told = results[key.address] = []
                # The task is completed after its last round, as whoever begins anew is told.
                with suppress(TaskClosedError):
                    async for result in participant.iterate(20):
                        told.append(result)  # noqa: PERF401 - what was told before the end.

        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                for key in (*PARTICIPANTS, slow_key):
                    nursery.start_soon(take_part, key)
        quick = [results[key.address] for key in PARTICIPANTS]
        assert all(len(own) >= 5 for own in quick)
        own = results[slow_key.address]
        counted = [
            (update.staleness, update.factor)
            for result in own
            for update in result.receipt.updates
            if update.participant == slow_key.address
        ]
        assert len(counted) >= 1
        assert all(factor == round(65_536 / (1 + s) ** 0.5) for s, factor in counted)
        assert max(staleness for staleness, _ in counted) >= 1
        # Each round that somebody was told of is told of once, in order.
        for rounds in results.values():
            numbers = [result.training_round for result in rounds]
            assert numbers == sorted(set(numbers))
