"""The consensus loop in whole nodes: timers, refused signatures, a full inbox, its limits."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from quorate.chain.vote import VoteType
from structlog.testing import capture_logs

from consensus.effects import UnsignedVote
from node.agreement import inbox as inbox_module
from node.agreement.signer import Signer
from tests.node.cluster import CHAIN_ID, make_config, make_genesis, make_key, open_cluster

AT_ONCE = make_config(empty_block_interval_ms=0)


def iterate_tasks(root: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    for nursery in root.child_nurseries:
        for task in nursery.child_tasks:
            yield task
            yield from iterate_tasks(task)


def count_height_tasks() -> int:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return sum("_run_scoped" in task.name for task in iterate_tasks(root))


async def test_timers_end_with_their_height(tmp_path: Path) -> None:
    slow = make_config(
        empty_block_interval_ms=0,
        timeout_propose_ms=20_000,
        timeout_prevote_ms=20_000,
        timeout_precommit_ms=20_000,
    )
    async with open_cluster(tmp_path, 1, config=slow) as cluster:
        await cluster.wait_for_height(30)
        # Three timers, a proposal and a verdict are all that one height can have at work.
        assert count_height_tasks() <= 5


async def test_a_refused_signature_is_silence_and_no_crash(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    folder.mkdir()
    signer = Signer(make_key(1), folder / "state.json", CHAIN_ID, is_record_optional=True)
    # The record is ahead of the chain, as after a restored backup of the database.
    signer.sign_vote(UnsignedVote(VoteType.PRECOMMIT, 4, 0, None))
    folder.rename(tmp_path / "kept")
    with capture_logs() as logs:
        async with open_cluster(tmp_path, 0, genesis=make_genesis(4), config=AT_ONCE) as cluster:
            for number in range(4):
                cluster.add(make_key(1 + number))
            (tmp_path / "kept" / "state.json").rename(folder / "state.json")
            for member in cluster.members:
                await cluster.start(member)
            await cluster.wait_for_height(8)
            record = cluster.members[0].running.services.signer
            assert record is not None
            assert record.last_signed.height > 4
    refusals = [entry for entry in logs if entry["event"] == "not_signed"]
    assert refusals
    assert all("already signed" in entry["reason"] for entry in refusals)


async def test_a_full_inbox_costs_messages_that_are_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "INBOX_MAX", 1)
    async with open_cluster(tmp_path, 4, config=AT_ONCE) as cluster:
        await cluster.wait_for_height(5)
        assert sum(m.running.services.runner.dropped_inputs for m in cluster.members) > 0


async def test_without_a_reason_no_height_begins(tmp_path: Path) -> None:
    quiet = make_config(create_empty_blocks=False)
    async with open_cluster(tmp_path, 2, config=quiet) as cluster:
        await cluster.wait_for_height(1)
        await trio.sleep(0.5)
        assert [member.height for member in cluster.members] == [1, 1]
        assert all(member.running.services.runner.is_waiting for member in cluster.members)
