"""A validator that meets its own votes: newer than its record, or not its own doing."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from quorate.chain.ids import Address, Hash, Signature
from quorate.chain.keys import PrivateKey
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import BlockId, Vote, VoteType

from consensus.algorithm import Lock
from consensus.driver import Driver
from consensus.effects import Broadcast, UnsignedProposal, UnsignedVote
from consensus.inputs import ProposalJudged, ProposalReceived, StartHeight, VoteReceived
from consensus.timeouts import TimeoutConfig
from node.agreement.inbox import Incoming
from node.agreement.signer import Signer
from node.errors import DoubleSignError, SignRecordError
from store.slotted_file import create_slotted
from tests.node.cluster import CHAIN_ID as CLUSTER_CHAIN_ID
from tests.node.durability.file_cluster import open_file_cluster

CHAIN_ID = "own"
KEY = PrivateKey(b"o" * 32)
OTHERS = [PrivateKey(bytes([50 + number]) * 32) for number in range(3)]
VALIDATORS = ValidatorSet.from_powers([(key.public_key, 1) for key in (KEY, *OTHERS)])


def make_block_id(number: int) -> BlockId:
    return BlockId(Hash(bytes([number]) * 32), 1, Hash(bytes([number]) * 32))


A, B = make_block_id(1), make_block_id(2)


def make_signer(path: Path, **options: bool) -> Signer:
    return Signer(KEY, path, CHAIN_ID, **options)


def sign_elsewhere(
    folder: Path, type_: VoteType, height: int, round_: int, block: BlockId | None
) -> Vote:
    """Vote with the same key and a record of its own, as a second process would."""
    path = folder / f"elsewhere-{type_}-{height}-{round_}"
    path.unlink(missing_ok=True)
    other = make_signer(path, is_record_optional=True)
    return other.sign_vote(UnsignedVote(type_, height, round_, block))


def test_a_newer_own_vote_is_told_with_the_way_out(tmp_path: Path) -> None:
    signer = make_signer(tmp_path / "state", is_record_optional=True)
    signer.sign_vote(UnsignedVote(VoteType.PREVOTE, 5, 0, A))
    for newer in (
        sign_elsewhere(tmp_path, VoteType.PRECOMMIT, 5, 0, None),
        sign_elsewhere(tmp_path, VoteType.PREVOTE, 5, 1, A),
        sign_elsewhere(tmp_path, VoteType.PREVOTE, 6, 0, A),
    ):
        with pytest.raises(SignRecordError, match=r"ends with height 5, round 0.*restore"):
            signer.notice(newer)
    assert signer.last_signed.height == 5


def test_what_the_record_knows_is_no_news(tmp_path: Path) -> None:
    signer = make_signer(tmp_path / "state", is_record_optional=True)
    own = signer.sign_vote(UnsignedVote(VoteType.PREVOTE, 5, 1, A))
    signer.notice(own)
    signer.notice(sign_elsewhere(tmp_path, VoteType.PREVOTE, 5, 0, B))
    signer.notice(sign_elsewhere(tmp_path, VoteType.PRECOMMIT, 4, 7, B))


def test_nobody_else_can_stop_a_validator(tmp_path: Path) -> None:
    signer = make_signer(tmp_path / "state", is_record_optional=True)
    newer = sign_elsewhere(tmp_path, VoteType.PREVOTE, 9, 0, A)
    signer.notice(replace(newer, height=10))
    signer.notice(replace(newer, signature=Signature(bytes(64))))
    signer.notice(replace(newer, validator=Address(OTHERS[0].address)))
    assert signer.last_signed.height == 0


def test_a_contradicting_own_vote_is_somebody_elses(tmp_path: Path) -> None:
    signer = make_signer(tmp_path / "state", is_record_optional=True)
    signer.sign_vote(UnsignedVote(VoteType.PREVOTE, 5, 0, A))
    with pytest.raises(DoubleSignError, match="another process signs"):
        signer.notice(sign_elsewhere(tmp_path, VoteType.PREVOTE, 5, 0, B))


def test_a_vouched_record_learns_from_peers(tmp_path: Path) -> None:
    signer = make_signer(tmp_path / "state", is_vouched=True)
    newer = sign_elsewhere(tmp_path, VoteType.PRECOMMIT, 9, 2, A)
    signer.notice(newer)
    again = make_signer(tmp_path / "state")
    assert again.lock == Lock(9, 2, A)
    assert again.sign_vote(UnsignedVote(VoteType.PRECOMMIT, 9, 2, A)) == newer
    with pytest.raises(DoubleSignError):
        again.sign_vote(UnsignedVote(VoteType.PRECOMMIT, 9, 2, None))


def test_the_record_keeps_the_lock_of_its_height(tmp_path: Path) -> None:
    signer = make_signer(tmp_path / "state", is_record_optional=True)
    assert signer.lock is None
    signer.sign_vote(UnsignedVote(VoteType.PRECOMMIT, 5, 0, A))
    signer.sign_vote(UnsignedVote(VoteType.PREVOTE, 5, 1, None))
    signer.sign_vote(UnsignedVote(VoteType.PRECOMMIT, 5, 1, None))
    signer.sign_proposal(UnsignedProposal(5, 2, -1, B, 7))
    assert make_signer(tmp_path / "state").lock == Lock(5, 0, A)
    signer.sign_vote(UnsignedVote(VoteType.PRECOMMIT, 5, 2, B))
    assert make_signer(tmp_path / "state").lock == Lock(5, 2, B)
    signer.sign_vote(UnsignedVote(VoteType.PREVOTE, 6, 0, A))
    assert make_signer(tmp_path / "state").lock is None


def test_a_record_of_another_version_is_not_called_damaged(tmp_path: Path) -> None:
    signer = make_signer(tmp_path / "state", is_record_optional=True)
    record = msgspec.to_builtins(signer.last_signed) | {"version": 1}
    create_slotted(tmp_path / "state", json.dumps(record).encode())
    with pytest.raises(SignRecordError, match=r"has version 1, .* start the node with the version"):
        make_signer(tmp_path / "state")


def make_driver(lock: Lock | None) -> Driver:
    driver = Driver(
        CHAIN_ID,
        KEY.address,
        TimeoutConfig(),
        last_height=4,
        validators=VALIDATORS,
        lock=lock,
    )
    driver.receive(StartHeight(5, VALIDATORS.validators, 0, 1000, 1000))
    return driver


def propose(driver: Driver, folder: Path, block: BlockId) -> BlockId | None:
    """Have the height's proposer propose a block in round 0; return what is prevoted."""
    (proposer,) = (key for key in (KEY, *OTHERS) if key.address == driver.proposer)
    signer = Signer(proposer, folder / "proposer", CHAIN_ID, is_record_optional=True)
    proposal = signer.sign_proposal(UnsignedProposal(5, 0, -1, block, 10))
    effects = driver.receive(ProposalReceived(proposal, 10))
    effects += driver.receive(ProposalJudged(5, block, True, 10))
    votes = [e.content for e in effects if isinstance(e, Broadcast)]
    (vote,) = [v for v in votes if isinstance(v, UnsignedVote)]
    return vote.block_id


@pytest.mark.parametrize(
    ("lock", "expected"),
    [(None, B), (Lock(5, 0, A), None), (Lock(5, 0, B), B), (Lock(4, 0, A), B)],
)
def test_a_lock_outlives_the_log(tmp_path: Path, lock: Lock | None, expected: BlockId) -> None:
    """A validator whose log is gone still votes for nothing but what it had locked."""
    assert propose(make_driver(lock), tmp_path, B) == expected


def test_an_older_polka_does_not_undo_a_restored_lock(tmp_path: Path) -> None:
    driver = make_driver(Lock(5, 3, A))
    propose(driver, tmp_path, B)
    for key in OTHERS:
        signer = Signer(key, tmp_path / key.address.hex(), CHAIN_ID, is_record_optional=True)
        prevote = signer.sign_vote(UnsignedVote(VoteType.PREVOTE, 5, 0, B))
        driver.receive(VoteReceived(prevote))
    machine = driver._machine
    assert machine is not None
    assert (machine.locked_block, machine.locked_round) == (A, 3)
    assert machine.valid_block == B


async def test_a_record_from_a_backup_stops_the_validator(tmp_path: Path) -> None:
    async with open_file_cluster(tmp_path, 4) as cluster:
        for member in cluster.members:
            await cluster.start(member)
        old = cluster.members[3]
        record = old.home.validator_state_file
        await cluster.wait_for_height(2)
        await cluster.stop(old)
        shutil.copytree(old.home.data_folder, tmp_path / "backup")
        await cluster.start(old)
        # Not every commit needs its signature, but many have it.
        await cluster.wait_for_height(old.height + 20)
        await cluster.stop(old)
        newest = record.read_bytes()
        shutil.rmtree(old.home.data_folder)
        shutil.copytree(tmp_path / "backup", old.home.data_folder)
        await cluster.start(old)
        failure = await cluster.fail(old)
        assert isinstance(failure, SignRecordError)
        assert "came from the network" in str(failure)
        # With the newest record in its place, the same backup of the data will do.
        record.write_bytes(newest)
        await cluster.start(old)
        reached = max(member.height for member in cluster.members[:3])
        await cluster.wait_for_height(reached + 2)


async def test_a_validator_without_data_and_record_stops_at_its_own_past(tmp_path: Path) -> None:
    async with open_file_cluster(tmp_path, 4) as cluster:
        for member in cluster.members:
            await cluster.start(member)
        await cluster.wait_for_height(3)
        wiped = cluster.members[2]
        await cluster.stop(wiped)
        shutil.rmtree(wiped.home.data_folder)
        wiped.home.create()
        await cluster.start(wiped)
        assert isinstance(await cluster.fail(wiped), SignRecordError)
        # Once the operator vouches that nobody else has the key, it learns what it has signed.
        await cluster.start(wiped, accept_missing_record=True)
        reached = max(m.height for m in cluster.members if m is not wiped)
        await cluster.wait_for_height(reached + 2)
        signer = wiped.running.services.signer
        assert signer is not None
        assert signer.last_signed.height >= reached


async def test_a_missing_record_keeps_a_validator_from_starting(tmp_path: Path) -> None:
    async with open_file_cluster(tmp_path) as cluster:
        member = cluster.members[0]
        await cluster.start(member)
        await cluster.wait_for_height(2)
        await cluster.stop(member)
        member.home.validator_state_file.unlink()
        with pytest.raises(SignRecordError, match="is missing: restore it"):
            await cluster.start(member)


@pytest.mark.parametrize("is_proposal", [False, True])
async def test_a_second_process_with_the_key_is_found_at_its_first_message(
    tmp_path: Path, is_proposal: bool
) -> None:
    async with open_file_cluster(tmp_path, 4) as cluster:
        for member in cluster.members:
            await cluster.start(member)
        await cluster.wait_for_height(2)
        victim = cluster.members[1]
        key = victim.key
        assert key is not None
        second = Signer(key, tmp_path / "second", CLUSTER_CHAIN_ID, is_record_optional=True)
        height = victim.height + 2
        if is_proposal:
            proposal = second.sign_proposal(UnsignedProposal(height, 50, -1, A, 10))
            message: ProposalReceived | VoteReceived = ProposalReceived(proposal, 10)
        else:
            vote = second.sign_vote(UnsignedVote(VoteType.PREVOTE, height, 50, A))
            message = VoteReceived(vote)
        peer = cluster.members[0].running.services.network.peer_id
        victim.running.services.runner.receive(Incoming(message, peer))
        failure = await cluster.fail(victim)
        assert isinstance(failure, SignRecordError)
        assert f"height {height}, round 50 came from the network" in str(failure)
        reached = cluster.members[0].height
        await cluster.wait_for_height(reached + 2, [m for m in cluster.members if m is not victim])
