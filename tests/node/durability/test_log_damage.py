"""The log of a real run, cut and changed at every byte: a prefix, or a refusal; never a new vote.

The run is that of `record_lock`: the validator has decided some heights and is in the middle of the
next, locked on a block that it has precommitted. Whatever the log has lost, it must not vote for
anything else.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from quorate.chain.errors import StorageError
from quorate.chain.ids import Height
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import compute_proposal_sign_bytes, compute_vote_sign_bytes

from consensus.driver import Driver
from consensus.effects import Broadcast, UnsignedProposal
from consensus.inputs import Input, ProposalReceived, StartHeight, VoteReceived
from consensus.timeouts import TimeoutConfig
from node.agreement.height_log import HeightLog, LoggedHeight
from node.agreement.sign_record import SignStep
from node.agreement.signer import Signer
from node.errors import DoubleSignError
from node.home import Home
from store.log_segment import HEADER_BYTES, decode_frame, decode_header
from store.segment_folder import MemorySegmentFolder
from store.write_ahead_log import MemoryWriteAheadLog
from tests.node.cluster import CHAIN_ID, make_key
from tests.node.durability.file_cluster import (
    Signed,
    assert_nothing_signed_twice,
    open_file_cluster,
)
from tests.node.durability.recordings import Recording

KEY = make_key(1)


class _Verifier:
    """Takes everything: what is logged has been verified, and this is run 20,000 times."""

    def is_vote_valid(self, *_: object) -> bool:
        return True

    is_proposal_valid = is_commit_valid = is_vote_valid


@dataclass(frozen=True)
class RecordedLog:
    """The one segment of a run's log, and what the run knew at its end."""

    data: bytes
    height: int
    signed: Signed
    signer: Signer
    records: list[bytes]
    validators: ValidatorSet

    def open(self, data: bytes) -> MemoryWriteAheadLog:
        return MemoryWriteAheadLog(MemorySegmentFolder({1: data}))

    def read(self, data: bytes) -> LoggedHeight:
        """Open a log and read what a restarting node reads; raise if it is refused."""
        log = self.open(data)
        whole = list(log.records())
        assert whole == self.records[: len(whole)], "a record that never was"
        return HeightLog(log).read(Height(self.height))

    def recover(self, logged: LoggedHeight) -> Driver:
        """Bring a driver to where the log says it was; sign what it asks for, as a node does."""
        driver = Driver(
            CHAIN_ID,
            KEY.address,
            TimeoutConfig(),
            _Verifier(),  # type: ignore[arg-type]
            last_height=self.height,
            validators=self.validators,
            lock=self.signer.lock,
        )
        inputs: list[Input] = list(logged.inputs)
        if not inputs:
            start = StartHeight(self.height + 1, self.validators.validators, 0, 1000, 1000)
            inputs.append(start)
        for item in inputs:
            driver.receive(item)
        for effect in driver.get_pending_effects():
            if isinstance(effect, Broadcast):
                self._sign(effect)
        return driver

    def _sign(self, effect: Broadcast) -> None:
        content = effect.content
        before = self.signer.last_signed
        try:
            if isinstance(content, UnsignedProposal):
                proposal = self.signer.sign_proposal(content)
                position = (content.height, content.round, int(SignStep.PROPOSAL))
                said = compute_proposal_sign_bytes(CHAIN_ID, proposal)
            else:
                self.signer.sign_vote(content)
                step = SignStep(int(content.type) + 1)
                position = (content.height, content.round, int(step))
                said = compute_vote_sign_bytes(
                    CHAIN_ID, content.type, content.height, content.round, content.block_id
                )
        except DoubleSignError:
            return
        finally:
            # Nothing new is asked for at the place where the run ended.
            assert self.signer.last_signed == before
        assert self.signed[KEY.address, *position] == {said}


@pytest.fixture(scope="module")
def recorded(locked_run: Recording, tmp_path_factory: pytest.TempPathFactory) -> RecordedLog:
    home = locked_run.copy(tmp_path_factory.mktemp("log") / "0")
    (segment,) = home.log_folder.glob("*.wal")
    signer = Signer(KEY, home.validator_state_file, CHAIN_ID)
    data = segment.read_bytes()
    log = MemoryWriteAheadLog(MemorySegmentFolder({1: data}))
    start = next(
        item
        for item in HeightLog(log).read(Height(locked_run.height)).inputs
        if isinstance(item, StartHeight)
    )
    return RecordedLog(
        data,
        locked_run.height,
        locked_run.signed,
        signer,
        list(log.records()),
        ValidatorSet(start.validators),
    )


def iterate_frame_ends(data: bytes) -> Iterator[int]:
    header, offset = decode_header(data, 1, "log"), HEADER_BYTES
    yield offset
    while (frame := decode_frame(header, data, offset)) is not None:
        offset = frame.end
        yield offset


def check(recorded: RecordedLog, data: bytes) -> str:
    """Recover from a log; return whether it was refused, or how much was still known."""
    sentence = ""
    try:
        logged = recorded.read(data)
    except StorageError as error:
        sentence = str(error)
    if sentence:
        assert "restore" in sentence
        assert "move the log's folder away" in sentence
        return "refused"
    machine = recorded.recover(logged)._machine
    assert machine is not None
    lock = recorded.signer.lock
    assert lock is not None
    assert (machine.locked_round, machine.locked_block) == (lock.round, lock.block_id)
    return "began" if logged.inputs else "empty"


def test_the_whole_log_has_the_lock_in_itself(recorded: RecordedLog) -> None:
    logged = recorded.read(recorded.data)
    own = [
        item
        for item in logged.inputs
        if (isinstance(item, VoteReceived) and item.vote.validator == KEY.address)
        or (isinstance(item, ProposalReceived) and item.proposal.proposer == KEY.address)
    ]
    assert len(own) >= 2
    assert logged.blocks
    assert check(recorded, recorded.data) == "began"


def test_a_log_cut_at_every_byte_gives_a_prefix(recorded: RecordedLog) -> None:
    outcomes = {size: check(recorded, recorded.data[:size]) for size in range(len(recorded.data))}
    refused = [size for size, outcome in outcomes.items() if outcome == "refused"]
    # Half a header is no torn tail: segments are created whole.
    assert refused == list(range(HEADER_BYTES))
    assert set(outcomes.values()) == {"refused", "empty", "began"}


def test_a_log_changed_at_every_byte_gives_a_prefix_or_is_refused(recorded: RecordedLog) -> None:
    data = bytearray(recorded.data)
    outcomes = []
    for position in range(len(data)):
        data[position] ^= 0x5A
        outcomes.append(check(recorded, bytes(data)))
        data[position] ^= 0x5A
    # It was closed in order, so that everything but the seal itself is known to have been whole.
    ends = list(iterate_frame_ends(recorded.data))
    assert set(outcomes[: ends[-2]]) == {"refused"}
    assert set(outcomes[ends[-2] :]) == {"began"}


def test_a_log_that_was_never_closed_changed_at_every_byte(recorded: RecordedLog) -> None:
    """After a kill there is no seal: what was not synced is a torn tail, the rest is damage."""
    ends = list(iterate_frame_ends(recorded.data))
    data = bytearray(recorded.data[: ends[-2]])
    outcomes = []
    for position in range(len(data)):
        data[position] ^= 0x5A
        outcomes.append(check(recorded, bytes(data)))
        data[position] ^= 0x5A
    # What a later frame proves to have been synced is refused, and nothing after it.
    first = outcomes.index("began")
    assert first in ends
    assert ends.index(first) > len(ends) // 2
    assert set(outcomes[:first]) == {"refused"}
    assert set(outcomes[first:]) == {"began"}


def test_zeros_from_every_frame_on(recorded: RecordedLog) -> None:
    """A file system may leave a file at its length with its last pages empty."""
    size = len(recorded.data)
    ends = list(iterate_frame_ends(recorded.data))
    outcomes = [check(recorded, recorded.data[:end] + bytes(size - end)) for end in ends]
    # What was lost of the height at work is made up for by the last-signed record, or is a prefix.
    first = outcomes.index("began")
    assert 0 < first < len(ends) - 1
    assert set(outcomes[:first]) == {"empty"}
    assert set(outcomes[first:]) == {"began"}


# --- whole nodes ----------------------------------------------------------------------------------


def get_representative_cuts(data: bytes) -> list[int]:
    """Some ends of frames and some places within, more of them in the height at work."""
    ends = list(iterate_frame_ends(data))
    return [*ends[1:-10:9], ends[-9] + 3, *ends[-9:-1:2], ends[-1] - 1]


async def run_harmed(recording: Recording, folder: Path, harm: Path) -> None:
    """Start all four validators of a run, one of them harmed, and let them go on."""
    async with open_file_cluster(folder, 4, genesis=recording.genesis) as cluster:
        cluster.signed = recording.copy_signed()
        assert harm.is_relative_to(cluster.members[0].home.folder)
        for member in cluster.members:
            await cluster.start(member)
        await cluster.wait_for_height(recording.height + 2)
        for member in cluster.members:
            await cluster.stop(member)
            assert member.failure is None
        assert_nothing_signed_twice(cluster.signed)


async def test_whole_nodes_go_on_after_cuts(locked_run: Recording, tmp_path: Path) -> None:
    (segment,) = Home(locked_run.folder / "0").log_folder.glob("*.wal")
    data = segment.read_bytes()
    for cut in get_representative_cuts(data):
        folder = locked_run.copy_all(tmp_path / str(cut))
        harmed = folder / "0" / segment.relative_to(locked_run.folder / "0")
        harmed.write_bytes(data[:cut])
        await run_harmed(locked_run, folder, harmed)
        shutil.rmtree(folder)


async def test_what_all_were_locked_on_is_decided(locked_run: Recording, tmp_path: Path) -> None:
    """All four were locked on one block; three of them know it from their logs."""
    folder = locked_run.copy_all(tmp_path / "net")
    signer = Signer(KEY, folder / "0" / "data" / "validator_state.json", CHAIN_ID)
    lock = signer.lock
    assert lock is not None
    shutil.rmtree(folder / "0" / "data" / "consensus.wal")
    async with open_file_cluster(folder, 4, genesis=locked_run.genesis) as cluster:
        for member in cluster.members:
            await cluster.start(member)
        await cluster.wait_for_height(lock.height)
        for member in cluster.members:
            stored = member.running.services.storage.chain.load_block_hash(lock.height)
            assert stored == lock.block_id.hash


async def test_a_log_without_its_database_is_refused(locked_run: Recording, tmp_path: Path) -> None:
    folder = locked_run.copy_all(tmp_path / "net")
    shutil.rmtree(folder / "0" / "data" / "blocks")
    async with open_file_cluster(folder, 4, genesis=locked_run.genesis) as cluster:
        member = cluster.members[0]
        with pytest.raises(StorageError, match=r"restore both from one backup; or move the log"):
            await cluster.start(member)
