"""Homes that a run has left behind, for tests that look at them, harm them and go on from them.

Owns the runs. Nobody changes a recording: tests work on copies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio
from quorate.chain.genesis import Genesis
from quorate.chain.transaction import Transfer
from quorate.chain.vote import VoteType

from node.agreement.sign_record import SignStep
from node.config import Config
from node.exchange.messages import VotesMessage, decode_message
from node.home import Home
from p2p.network import Priority
from tests.node.cluster import USERS, make_genesis, sign
from tests.node.durability.file_cluster import (
    FileCluster,
    Signed,
    copy_home,
    make_fast_config,
    open_file_cluster,
)
from tests.node.test_training import Trainer

DIMENSION = 40_000
"""Parameters: weights and updates are large enough to be files."""


@dataclass(frozen=True)
class Recording:
    """What a run has left behind."""

    folder: Path
    genesis: Genesis
    config: Config
    signed: Signed
    height: int

    def copy(self, target: Path, number: int = 0) -> Home:
        """A home of the run, to do with as one likes."""
        return copy_home(Home(self.folder / str(number)), target)

    def copy_all(self, target: Path) -> Path:
        target.mkdir()
        for home in sorted(self.folder.iterdir()):
            copy_home(Home(home), target / home.name)
        return target

    def copy_signed(self) -> Signed:
        return {position: set(found) for position, found in self.signed.items()}


def record_training(folder: Path) -> Recording:
    """One validator: transfers, a task, one training round, and some blocks after it."""

    async def run() -> Recording:
        async with open_file_cluster(folder, 1) as cluster:
            (member,) = cluster.members
            await cluster.start(member)
            mempool = member.running.services.mempool
            for nonce in range(3):
                body = Transfer(USERS[6].address, 1 + nonce)
                await mempool.submit_local(sign(USERS[5], nonce, body), None)
            trainer = Trainer(cluster, DIMENSION)  # type: ignore[arg-type]
            await trainer.begin()
            await trainer.run_round(trainer.tasks()[0].record.training_round)
            await cluster.stop(member)
            # The database turns its log into a table when it is opened again.
            await cluster.start(member)
            await cluster.wait_for_height(member.height + 3)
            await cluster.stop(member)
            return _make(folder, cluster)

    return trio.run(run)


def record_lock(folder: Path) -> Recording:
    """Four validators that stop in the middle of a height: all locked on a block, none decided."""

    async def run() -> Recording:
        genesis = make_genesis(4, bucket_count=16)
        async with open_file_cluster(folder, 4, genesis=genesis) as cluster:
            for member in cluster.members:
                await cluster.start(member)
            await cluster.wait_for_height(2)
            cluster.hub.drop = _drop_precommits
            await _wait(lambda: all(_has_precommitted_beyond(cluster, n) for n in range(4)))
            for member in cluster.members:
                await cluster.stop(member)
            return _make(folder, cluster)

    return trio.run(run)


def _drop_precommits(_from: str, _to: str, _priority: Priority, body: bytes) -> bool:
    message = decode_message(body) if body else None
    return isinstance(message, VotesMessage) and any(
        vote.type is VoteType.PRECOMMIT for vote in message.votes
    )


def _has_precommitted_beyond(cluster: FileCluster, number: int) -> bool:
    services = cluster.members[number].running.services
    heights = {member.height for member in cluster.members}
    if services.signer is None or len(heights) > 1:
        return False
    last = services.signer.last_signed
    return (last.height, last.step) == (max(heights) + 1, SignStep.PRECOMMIT) and bool(last.lock)


async def _wait(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


def _make(folder: Path, cluster: FileCluster) -> Recording:
    return Recording(
        folder, cluster.genesis, make_fast_config(), cluster.signed, cluster.members[0].height
    )
