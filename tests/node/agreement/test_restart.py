"""Nodes that vanish at every step of a height: no second vote, and the chain goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from quorate.chain.errors import StorageError
from quorate.chain.ids import Address
from quorate.chain.vote import BlockId

from node.exchange.messages import ProposalMessage, VotesMessage, decode_message
from p2p.network import PeerId, Priority
from store.segment_folder import MemorySegmentFolder
from store.write_ahead_log import MemoryWriteAheadLog
from tests.node.cluster import (
    Cluster,
    Member,
    PowerFailure,
    make_config,
    make_genesis,
    make_key,
    open_cluster,
)

FAST = make_config(
    empty_block_interval_ms=0,
    timeout_propose_ms=100,
    timeout_prevote_ms=50,
    timeout_precommit_ms=50,
)


class FailingLog(MemoryWriteAheadLog):
    """A log in memory whose machine loses power at a given record or mark."""

    def __init__(self, folder: MemorySegmentFolder | None = None) -> None:
        self.memory = folder or MemorySegmentFolder()
        super().__init__(self.memory)
        self.records_left: int | None = None
        self.fails_at_mark = False
        self.calls: list[str] = []

    def append(self, record: bytes) -> None:
        self.calls.append("append")
        if self.records_left == 0:
            raise PowerFailure
        if self.records_left is not None:
            self.records_left -= 1
        super().append(record)

    def mark(self, height: int) -> None:
        if self.fails_at_mark:
            raise PowerFailure
        super().mark(height)

    def sync(self) -> None:
        self.calls.append("sync")
        super().sync()

    def come_back(self, *, power_failed: bool) -> "FailingLog":
        """Return the log as the next process finds it."""
        self.flush()
        return FailingLog(self.memory.reopen(power_failed=power_failed))


class Witness:
    """Hears every vote and proposal on the network, and finds contradictions."""

    def __init__(self, cluster: Cluster) -> None:
        self.signed: dict[tuple[Address, int, int, int], set[BlockId | None]] = {}
        cluster.hub.drop = self.listen

    def listen(self, _sender: PeerId, _receiver: PeerId, _priority: Priority, body: bytes) -> bool:
        message = decode_message(body)
        if isinstance(message, VotesMessage):
            for vote in message.votes:
                key = (vote.validator, vote.height, vote.round, vote.type)
                self.signed.setdefault(key, set()).add(vote.block_id)
        elif isinstance(message, ProposalMessage):
            proposal = message.proposal
            key = (proposal.proposer, proposal.height, proposal.round, 0)
            self.signed.setdefault(key, set()).add(proposal.block_id)
        return False

    @property
    def contradictions(self) -> list[tuple[Address, int, int, int]]:
        return [key for key, contents in self.signed.items() if len(contents) > 1]


async def fail_and_restart(
    cluster: Cluster, member: Member, arm: Callable[[FailingLog], None], *, power_failed: bool
) -> None:
    log = member.log
    assert isinstance(log, FailingLog)
    arm(log)
    with trio.fail_after(20):
        await member.stopped.wait()
    member.log = log.come_back(power_failed=power_failed)
    member.payloads = member.payloads.reopen()
    await cluster.start(member)


def give_failing_logs(cluster: Cluster) -> None:
    for member in cluster.members:
        member.log = FailingLog()


def assert_agreement(cluster: Cluster) -> None:
    common = min(member.height for member in cluster.members)
    for height in range(1, common + 1):
        stored = {m.running.services.storage.chain.load_block(height) for m in cluster.members}
        assert len(stored) == 1


@pytest.mark.parametrize("validators", [1, 4])
@pytest.mark.parametrize("power_failed", [False, True])
async def test_power_fails_at_every_record_of_a_height(
    tmp_path: Path, validators: int, power_failed: bool
) -> None:
    async with open_cluster(tmp_path, 0, genesis=make_genesis(validators), config=FAST) as cluster:
        for number in range(validators):
            cluster.add(make_key(1 + number))
        give_failing_logs(cluster)
        witness = Witness(cluster)
        for member in cluster.members:
            await cluster.start(member)
        victim = cluster.members[0]
        # A height of four validators takes some 14 records, one of a single validator 7.
        for cut in range(14 if validators == 4 else 8):

            def arm(log: FailingLog, cut: int = cut) -> None:
                log.records_left = cut

            await fail_and_restart(cluster, victim, arm, power_failed=power_failed)
        top = max(member.height for member in cluster.members)
        await cluster.wait_for_height(top + 3)
        assert_agreement(cluster)
        assert witness.contradictions == []
        assert validators == 1 or len(witness.signed) > 20


async def test_power_fails_between_the_store_and_the_mark(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 0, genesis=make_genesis(4), config=FAST) as cluster:
        for number in range(4):
            cluster.add(make_key(1 + number))
        give_failing_logs(cluster)
        witness = Witness(cluster)
        for member in cluster.members:
            await cluster.start(member)
        for victim in cluster.members:

            def arm(log: FailingLog) -> None:
                log.fails_at_mark = True

            await fail_and_restart(cluster, victim, arm, power_failed=True)
        await cluster.wait_for_height(max(m.height for m in cluster.members) + 2)
        assert_agreement(cluster)
        assert witness.contradictions == []


async def test_all_validators_fail_at_once_after_they_voted(tmp_path: Path) -> None:
    # Every node has logged and sent its votes; none has decided. The block must not be lost.
    async with open_cluster(tmp_path, 0, genesis=make_genesis(4), config=FAST) as cluster:
        for number in range(4):
            cluster.add(make_key(1 + number))
        give_failing_logs(cluster)
        for member in cluster.members:
            await cluster.start(member)
        await cluster.wait_for_height(2)
        for member in cluster.members:
            assert isinstance(member.log, FailingLog)
            member.log.records_left = 9
        # The first that fail may leave too few for the others to write any more.
        with trio.move_on_after(3):
            for member in cluster.members:
                await member.stopped.wait()
        assert any(member.stopped.is_set() for member in cluster.members)
        for member in cluster.members:
            await cluster.stop(member)
        before = max(member.height for member in cluster.members)
        for member in cluster.members:
            assert isinstance(member.log, FailingLog)
            member.log = member.log.come_back(power_failed=True)
            await cluster.start(member)
        await cluster.wait_for_height(before + 3)
        assert_agreement(cluster)


async def test_a_log_ahead_of_the_database_is_refused(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 1, config=FAST) as cluster:
        await cluster.wait_for_height(3)
        member = cluster.members[0]
        await cluster.stop(member)
        fresh = Member(1, member.key, member.folder, log=member.log)
        fresh.number = 0
        expected = pytest.RaisesExc(StorageError, match="has seen the end of height")
        with pytest.RaisesGroup(expected, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                other = Cluster(nursery, tmp_path, cluster.genesis, FAST, "mesh")
                other.members.append(fresh)
                await other.start(fresh)
                await trio.sleep(5)


async def test_what_led_to_an_own_message_is_durable_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cluster(tmp_path, 0, genesis=make_genesis(4), config=FAST) as cluster:
        for number in range(4):
            cluster.add(make_key(1 + number))
        give_failing_logs(cluster)
        for member in cluster.members:
            await cluster.start(member)
        await cluster.wait_for_height(1)
        member = cluster.members[0]
        log = member.log
        assert isinstance(log, FailingLog)
        network = member.running.services.network
        broadcast, seen = network.broadcast, []

        def look(priority: Priority, body: bytes, *args: frozenset[PeerId]) -> int:
            message = decode_message(body)
            if isinstance(message, VotesMessage | ProposalMessage):
                signed = message.votes[0] if isinstance(message, VotesMessage) else message.proposal
                record = (member.folder / "state.json").read_bytes()
                durable = MemoryWriteAheadLog(log.memory.reopen(power_failed=True))
                written = list(log.records())
                # The message is the last record; the signer's file has it, and the log the rest.
                seen.append(
                    signed.signature.hex().encode() in record
                    and len(list(durable.records())) >= len(written) - 1
                )
            return broadcast(priority, body, *args)

        monkeypatch.setattr(network, "broadcast", look)
        with trio.fail_after(10):
            while len(seen) < 12:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert all(seen)
