"""A validator that was away for many blocks fetches them and votes again, without a restart."""

from pathlib import Path

import pytest
import trio

from node.agreement.sign_record import SignStep
from store.database import Batch, MemoryDatabase
from tests.node.cluster import Member, make_config, make_genesis, make_key, now_ms, open_cluster
from tests.node.execution.chain import ExecutionChain

BLOCK_INTERVAL_MS = 100
"""The time between two blocks of an `ExecutionChain`."""
RETURN_S = 120


async def make_chain_without_one(blocks: int) -> ExecutionChain:
    """A chain that three of four validators have decided; the fourth has signed nothing."""
    began_ms = now_ms() - (blocks + 100) * BLOCK_INTERVAL_MS
    chain = ExecutionChain(make_genesis(4, genesis_time_ms=began_ms))
    for _ in range(blocks):
        executed = await chain.build()
        chain.executor.commit(chain.sign_commit(executed.block_id, 3))
    return chain


def has_voted(member: Member) -> bool:
    signer = member.running.services.signer
    return signer is not None and signer.last_signed.step is SignStep.PREVOTE


def copy_database(database: MemoryDatabase) -> MemoryDatabase:
    copied, batch = MemoryDatabase(), Batch()
    for key, value in database.iterate(b"", b"\xff" * 40):
        batch.put(key, value)
    copied.write(batch, sync=True)
    return copied


@pytest.mark.parametrize("blocks", [300, pytest.param(5_000, marks=pytest.mark.slow)])
async def test_a_validator_that_was_away_votes_again(tmp_path: Path, blocks: int) -> None:
    chain = await make_chain_without_one(blocks)
    config = make_config(
        timeout_propose_ms=100,
        timeout_prevote_ms=50,
        timeout_precommit_ms=50,
        empty_block_interval_ms=20,
    )
    async with open_cluster(tmp_path, 0, genesis=chain.genesis, config=config) as cluster:
        members = [cluster.add(make_key(1 + number)) for number in range(4)]
        away, others = members[3], members[:3]
        await cluster.start(away)
        with trio.fail_after(20):
            # It hears of nobody, and has voted nil at the first height.
            while not has_voted(away):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert away.height == 0
        running = away.node
        for member in others:
            member.database = copy_database(chain.database)
            await cluster.start(member)
        with trio.fail_after(RETURN_S):
            while away.height < blocks:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert max(member.height for member in others) >= blocks
        # Without its votes the two that are left have no quorum.
        await cluster.stop(others[0])
        reached = max(member.height for member in others)
        await cluster.wait_for_height(reached + 3, [away, *others[1:]])
        assert away.node is running
