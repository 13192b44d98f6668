"""Whole nodes over the in-memory network: they agree, recover, catch up and repair."""

import random
from pathlib import Path

import pytest
import trio
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.transaction import Transfer

from p2p.network import Priority
from tests.node.cluster import (
    BALANCE,
    USERS,
    Member,
    make_config,
    make_key,
    open_cluster,
    sign,
)


def get_balance(member: Member, user: int) -> int:
    state = member.running.services.executor.state
    return state.get_account(USERS[user].address).balance


async def submit(member: Member, nonce: int, amount: int = 1) -> None:
    await member.running.services.mempool.submit_local(
        sign(USERS[0], nonce, Transfer(USERS[1].address, amount)), None
    )


async def wait_for_balance(members: list[Member], balance: int) -> None:
    with trio.fail_after(30):
        while any(get_balance(member, 1) != balance for member in members):  # noqa: ASYNC110
            await trio.sleep(0.02)


def assert_same_chain(members: list[Member]) -> None:
    common = min(member.height for member in members)
    for height in range(1, common + 1):
        stored = {member.running.services.storage.chain.load_block(height) for member in members}
        assert len(stored) == 1, f"different blocks at height {height}"


async def test_four_nodes_decide_the_same_blocks(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster:
        for nonce in range(10):
            await submit(cluster.members[0], nonce)
        await wait_for_balance(cluster.members, BALANCE + 10)
        await cluster.wait_for_height(3)
        assert_same_chain(cluster.members)


async def test_a_transaction_is_decided_wherever_it_is_submitted(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster:
        for number, member in enumerate(cluster.members):
            await member.running.services.mempool.submit_local(
                sign(USERS[2 + number], 0, Transfer(USERS[1].address, 1)), None
            )
        await wait_for_balance(cluster.members, BALANCE + 4)


async def test_three_of_four_go_on_and_the_fourth_catches_up(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster:
        await cluster.wait_for_height(2)
        gone, others = cluster.members[3], cluster.members[:3]
        await cluster.stop(gone)
        reached = max(member.height for member in others)
        for nonce in range(5):
            await submit(others[0], nonce)
        await wait_for_balance(others, BALANCE + 5)
        await cluster.wait_for_height(reached + 6, others)
        await cluster.start(gone)
        await cluster.wait_for_height(max(member.height for member in others))
        await wait_for_balance(cluster.members, BALANCE + 5)
        assert_same_chain(cluster.members)
        # It votes again: with another one gone, the network still decides.
        await cluster.stop(others[0])
        reached = max(member.height for member in cluster.members[1:])
        await cluster.wait_for_height(reached + 4, cluster.members[1:])


async def test_a_validator_that_was_away_votes_again_without_a_restart(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, config=make_config(empty_block_interval_ms=0)) as cluster:
        await cluster.wait_for_height(2)
        away, others = cluster.members[3], cluster.members[:3]
        cluster.hub.partition([away.running.services.network.peer_id])
        await cluster.wait_for_height(away.height + 150, others)
        behind = max(member.height for member in others) - away.height
        cluster.hub.heal()
        await cluster.wait_for_height(max(member.height for member in others))
        assert behind >= 100
        assert_same_chain(cluster.members)
        # Without its votes, the others could not go on any more.
        await cluster.stop(others[0])
        present = cluster.members[1:]
        await cluster.wait_for_height(max(member.height for member in present) + 4, present)


async def test_a_late_follower_gets_the_whole_chain(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, config=make_config(empty_block_interval_ms=0)) as cluster:
        await cluster.wait_for_height(40)
        follower = cluster.add(None)
        await cluster.start(follower)
        await cluster.wait_for_height(60)
        assert_same_chain(cluster.members)


async def test_all_nodes_restart_in_the_middle_of_a_height(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, config=make_config(empty_block_interval_ms=0)) as cluster:
        generator = random.Random(7)
        for _ in range(5):
            await trio.sleep(generator.random() * 0.2)
            for member in cluster.members:
                await cluster.stop(member)
            heights = [member.height for member in cluster.members]
            for member in cluster.members:
                await cluster.start(member)
            await cluster.wait_for_height(max(heights) + 2)
            assert_same_chain(cluster.members)


async def test_what_users_submitted_survives_a_restart(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster:
        await cluster.wait_for_height(1)
        alone = cluster.members[0]
        cluster.hub.partition([alone.running.services.network.peer_id])
        await submit(alone, 0, amount=7)
        await cluster.stop(alone)
        cluster.hub.heal()
        await cluster.start(alone)
        await wait_for_balance(cluster.members, BALANCE + 7)


async def test_a_partition_stops_decisions_and_its_end_resumes_them(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, config=make_config(empty_block_interval_ms=0)) as cluster:
        await cluster.wait_for_height(2)
        ids = [member.running.services.network.peer_id for member in cluster.members]
        cluster.hub.partition(ids[:2], ids[2:])
        # Whoever is a block behind the other in its half gets it first.
        await trio.sleep(1.5)
        stuck = [member.height for member in cluster.members]
        await trio.sleep(0.5)
        assert [member.height for member in cluster.members] == stuck
        cluster.hub.heal()
        await cluster.wait_for_height(max(stuck) + 3)
        assert_same_chain(cluster.members)


async def test_nodes_in_a_line_decide_through_relays(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, topology="line") as cluster:
        await submit(cluster.members[0], 0, amount=3)
        await wait_for_balance(cluster.members, BALANCE + 3)
        assert all(len(m.running.services.network.peers()) <= 2 for m in cluster.members)
        assert_same_chain(cluster.members)


async def test_lost_messages_are_repaired(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, config=make_config(empty_block_interval_ms=0)) as cluster:
        generator = random.Random(3)
        cluster.hub.drop = lambda _from, _to, _priority, _body: generator.random() < 0.2
        await submit(cluster.members[0], 0, amount=2)
        await wait_for_balance(cluster.members, BALANCE + 2)
        await cluster.wait_for_height(8)
        assert_same_chain(cluster.members)


async def test_transactions_spread_by_pull_alone(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster:
        await cluster.wait_for_height(1)
        first = cluster.members[0].running.services.network.peer_id
        dropped: list[bytes] = []

        def drop_pushed_transactions(
            sender: str, _receiver: str, priority: Priority, body: bytes
        ) -> bool:
            # Announcements are small; what is pushed first is the batch itself.
            is_batch = sender == first and priority is Priority.MEMPOOL and len(body) > 100
            dropped.extend([body] * is_batch)
            return is_batch

        cluster.hub.drop = drop_pushed_transactions
        await submit(cluster.members[0], 0, amount=2)
        await wait_for_balance(cluster.members, BALANCE + 2)
        assert dropped


async def test_a_refused_transaction_changes_nothing(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, validators=1) as cluster:
        await cluster.wait_for_height(1)
        mempool = cluster.members[0].running.services.mempool
        poor = make_key(99)
        with pytest.raises(TransactionError) as caught:
            await mempool.submit_local(sign(poor, 0, Transfer(USERS[0].address, 1)), None)
        assert caught.value.code is ErrorCode.INSUFFICIENT_BALANCE
        assert mempool.count == 0
