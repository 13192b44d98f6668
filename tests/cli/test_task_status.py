"""`task pause` and `task resume`, against a node on a real port."""

from functools import partial
from pathlib import Path

import pytest
import trio
from quorate.chain.transaction import TaskStatus

from node.commands.keyring import Keyring
from tests.cli.console import Console, Outcome
from tests.node.cluster import USERS
from tests.node.rpc.serving import make_spec, open_rpc, open_task, poll

ALICE, BOB = USERS[:2]


@pytest.mark.usefixtures("quiet_node", "keyring")
async def test_a_task_is_paused_and_resumed_by_its_authority(
    quorate: Console, tmp_path: Path
) -> None:
    Keyring(tmp_path / "ring").save("alice", ALICE)
    Keyring(tmp_path / "ring").save("bob", BOB)
    async with open_rpc(tmp_path) as served:
        task_id = await open_task(served, ALICE, BOB, spec=make_spec("north/digits"))

        async def run(*arguments: object) -> Outcome:
            shared = ("--output", "json", "--node", served.url)
            return await trio.to_thread.run_sync(partial(quorate, *shared, *arguments))

        def has(status: TaskStatus) -> bool:
            task = served.services.executor.state.get_task(task_id)
            return task is not None and task.status is status

        refused = await run("task", "pause", "north/digits", "--key", "bob")
        assert refused.code == 1
        assert "Only the task's authority" in refused.sentence
        unknown = await run("task", "pause", "south", "--key", "alice")
        assert "no task 'south'" in unknown.sentence
        open_already = await run("task", "resume", "north/digits", "--key", "alice")
        assert "is open already" in open_already.sentence
        assert has(TaskStatus.OPEN)

        paused = await run("task", "pause", "north/digits", "--key", "alice")
        assert paused.code == 0, paused.err
        told = paused.data["task_id"], paused.data["task_status"], paused.data["status"]
        assert told == (task_id.hex(), "paused", "decided")
        assert has(TaskStatus.PAUSED)
        assert (await run("task", "show", "north/digits")).data["status"] == "paused"

        resumed = await run("task", "resume", task_id.hex(), "--key", "alice", "--no-wait")
        assert (resumed.code, resumed.data["task_status"]) == (0, "open"), resumed.err
        await poll(lambda: has(TaskStatus.OPEN))
