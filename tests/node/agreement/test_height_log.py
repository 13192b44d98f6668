"""The consensus log: what a restart reads is what the driver was fed, in the same order."""

import pytest
from msgspec.structs import replace
from quorate.chain.errors import InvariantError, StorageError
from quorate.chain.ids import Hash, Height, Round
from quorate.chain.keys import Domain
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import BlockId, Proposal, Vote, VoteType, compute_proposal_sign_bytes

from consensus.driver import Driver
from consensus.effects import Broadcast, Effect, UnsignedVote
from consensus.inputs import (
    Input,
    ProposalJudged,
    ProposalReceived,
    StartHeight,
    TimeoutElapsed,
    TimeoutKind,
    VoteReceived,
)
from consensus.timeouts import TimeoutConfig
from consensus.verifier import SignatureVerifier
from node.agreement.foreign_inputs import FORGED_PENALTY, ForeignInputs
from node.agreement.height_log import EARLY_INPUTS_MAX, HeightLog, get_height
from node.agreement.noting_verifier import NotingVerifier
from node.agreement.patience import Patience
from p2p.network import PeerId
from store.segment_folder import MemorySegmentFolder
from store.write_ahead_log import MemoryWriteAheadLog
from tests.node.cluster import CHAIN_ID
from tests.node.execution.chain import VALIDATORS, sign_vote

SET = ValidatorSet.from_powers([(key.public_key, 10) for key in VALIDATORS])
A = BlockId(Hash(b"\x0a" * 32), 1, Hash(b"\x0a" * 32))
B = BlockId(Hash(b"\x0b" * 32), 1, Hash(b"\x0b" * 32))
PEER = PeerId("peer")


def make_start(height: int) -> StartHeight:
    return StartHeight(Height(height), SET.validators, 0, 500, 15_000)


def make_proposal(height: int, round_: int, block_id: BlockId) -> ProposalReceived:
    rotated = SET.advance(round_) if round_ else SET
    key = next(key for key in VALIDATORS if key.address == rotated.proposer.address)
    bare = Proposal(
        Height(height),
        Round(round_),
        Round(-1),
        block_id,
        1000,
        key.address,
        b"",  # type: ignore[arg-type]
    )
    message = compute_proposal_sign_bytes(CHAIN_ID, bare)
    return ProposalReceived(replace(bare, signature=key.sign(Domain.PROPOSAL, message)), 1000)


def receive_vote(key: int, type_: VoteType, height: int, block: BlockId | None) -> VoteReceived:
    return VoteReceived(sign_vote(VALIDATORS[key], type_, height, block))


def timeout(kind: TimeoutKind, height: int, round_: int = 0) -> TimeoutElapsed:
    return TimeoutElapsed(kind, Height(height), Round(round_))


def reopen(folder: MemorySegmentFolder) -> HeightLog:
    return HeightLog(MemoryWriteAheadLog(folder.reopen()))


def test_a_height_is_read_as_it_was_written() -> None:
    folder = MemorySegmentFolder()
    backing = MemoryWriteAheadLog(folder)
    log = HeightLog(backing)
    log.read(Height(4))
    inputs: list[Input] = [make_start(5), timeout(TimeoutKind.PROPOSE, 5)]
    for item in inputs:
        log.append_input(item)
    log.append_block(A, b"block a")
    log.append_block(A, b"block a")
    log.append_block(B, b"block b")
    log.sync()
    logged = reopen(folder).read(Height(4))
    assert logged.inputs == inputs
    assert [(block.block_id, block.raw) for block in logged.blocks] == [
        (A, b"block a"),
        (B, b"block b"),
    ]


def test_a_block_is_logged_again_in_no_height_but_anew_in_the_next() -> None:
    folder = MemorySegmentFolder()
    log = HeightLog(MemoryWriteAheadLog(folder))
    log.read(Height(4))
    log.append_input(make_start(5))
    log.append_block(A, b"block a")
    log.sync()
    again = reopen(folder)
    assert len(again.read(Height(4)).blocks) == 1
    again.append_block(A, b"block a")
    assert len(again.read(Height(4)).blocks) == 1
    again.mark(Height(5))
    again.append_input(make_start(6))
    again.append_block(A, b"block a")
    assert len(again.read(Height(5)).blocks) == 1


def test_a_height_that_the_store_has_is_over_though_its_mark_is_missing() -> None:
    folder = MemorySegmentFolder()
    log = HeightLog(MemoryWriteAheadLog(folder))
    log.read(Height(4))
    log.append_input(make_start(5))
    log.sync()
    again = reopen(folder)
    assert again.read(Height(5)).inputs == []
    again.append_input(make_start(6))
    assert again.read(Height(5)).inputs == [make_start(6)]


def test_a_log_ahead_of_the_store_is_refused_with_the_way_out() -> None:
    folder = MemorySegmentFolder()
    log = HeightLog(MemoryWriteAheadLog(folder))
    log.read(Height(4))
    log.mark(Height(5))
    log.sync()
    with pytest.raises(StorageError, match=r"end of height 5, but the database is at height 4: re"):
        reopen(folder).read(Height(4))


def test_a_record_of_another_version_is_refused() -> None:
    folder = MemorySegmentFolder()
    backing = MemoryWriteAheadLog(folder)
    log = HeightLog(backing)
    log.read(Height(4))
    for record in (b"Zwhatever", b"I\x91\x63"):
        backing.append(record)
        backing.sync()
        with pytest.raises(StorageError, match="start the version that wrote it"):
            reopen(folder).read(Height(4))


def test_early_messages_are_written_just_before_their_height() -> None:
    folder = MemorySegmentFolder()
    log = HeightLog(MemoryWriteAheadLog(folder))
    log.read(Height(4))
    five, six = (receive_vote(1, VoteType.PREVOTE, height, A) for height in (5, 6))
    log.keep_early(five)
    log.keep_early(six)
    assert reopen(folder).read(Height(4)).inputs == []
    log.append_input(make_start(5))
    log.sync()
    assert reopen(folder).read(Height(4)).inputs == [five, make_start(5)]
    log.mark(Height(5))
    log.append_input(make_start(6))
    log.sync()
    assert reopen(folder).read(Height(5)).inputs == [six, make_start(6)]


def test_early_messages_without_their_height_are_not_taken_for_those_of_the_next_start() -> None:
    folder = MemorySegmentFolder()
    backing = MemoryWriteAheadLog(folder)
    log = HeightLog(backing)
    log.read(Height(4))
    log.keep_early(receive_vote(1, VoteType.PREVOTE, 5, A))
    log.append_input(make_start(5))
    log.sync()
    # Power fails between the two records: cut the last one off.
    whole = list(backing.records())
    torn = MemorySegmentFolder()
    first = MemoryWriteAheadLog(torn)
    first.mark(4)
    first.append(whole[0])
    first.sync()
    second = HeightLog(MemoryWriteAheadLog(torn.reopen()))
    assert second.read(Height(4)).inputs == []
    second.append_input(make_start(5))
    assert second.read(Height(4)).inputs == [make_start(5)]


def test_the_room_for_early_messages_is_bounded() -> None:
    log = HeightLog(MemoryWriteAheadLog())
    vote = receive_vote(1, VoteType.PREVOTE, 5, A)
    for _ in range(EARLY_INPUTS_MAX):
        assert log.has_room
        log.keep_early(vote)
    assert not log.has_room
    with pytest.raises(InvariantError):
        log.keep_early(vote)
    log.mark(Height(5))
    assert log.has_room


class Validator:
    """A driver with a log, as the consensus loop runs them."""

    def __init__(self, folder: MemorySegmentFolder) -> None:
        self.log = HeightLog(MemoryWriteAheadLog(folder))
        self.verifier = NotingVerifier(SignatureVerifier(CHAIN_ID))
        self.key = VALIDATORS[0]
        self.driver = Driver(
            CHAIN_ID,
            self.key.address,
            TimeoutConfig(),
            self.verifier,
            last_height=4,
            validators=SET,
        )
        self.reports: list[int] = []
        self.foreign = ForeignInputs(
            self.driver,
            self.verifier,
            self.log,
            lambda _peer, penalty, _reason: self.reports.append(penalty),
            Patience(self.key.address, lambda _message: True, lambda: 0.0),
            None,
        )
        for item in self.log.read(Height(4)).inputs:
            self.driver.receive(item)

    def take(self, input_: Input, *, is_foreign: bool) -> list[UnsignedVote]:
        """Feed an input, and own votes back; return those votes."""
        if is_foreign:
            effects = self.foreign.receive(input_, PEER)
        else:
            self.log.append_input(input_)
            effects = self.driver.receive(input_)
        return self._return_votes(effects)

    def _return_votes(self, effects: list[Effect]) -> list[UnsignedVote]:
        votes: list[UnsignedVote] = []
        for effect in effects:
            if isinstance(effect, Broadcast) and isinstance(effect.content, UnsignedVote):
                cast = effect.content
                vote: Vote = sign_vote(self.key, cast.type, cast.height, cast.block_id, cast.round)
                votes += [cast, *self.take(VoteReceived(vote), is_foreign=False)]
        return votes


def test_a_lock_that_early_messages_led_to_survives_a_restart() -> None:
    folder = MemorySegmentFolder()
    validator = Validator(folder)
    # The others are faster: proposal and prevotes come before this validator begins the height.
    early = [make_proposal(5, 0, A)]
    early += [receive_vote(key, VoteType.PREVOTE, 5, A) for key in (1, 2, 3)]  # type: ignore[misc]
    for item in early:
        assert validator.take(item, is_foreign=True) == []
    validator.take(make_start(5), is_foreign=False)
    judged = ProposalJudged(Height(5), A, is_valid=True, time_ms=1000)
    votes = validator.take(judged, is_foreign=False)
    assert [(vote.type, vote.block_id) for vote in votes] == [
        (VoteType.PREVOTE, A),
        (VoteType.PRECOMMIT, A),
    ]
    validator.log.sync()
    again = Validator(folder.reopen())
    again.take(timeout(TimeoutKind.PRECOMMIT, 5), is_foreign=False)
    assert again.driver.round == 1
    again.take(make_proposal(5, 1, B), is_foreign=True)
    votes = again.take(ProposalJudged(Height(5), B, is_valid=True, time_ms=1000), is_foreign=False)
    votes += again.take(timeout(TimeoutKind.PROPOSE, 5, 1), is_foreign=False)
    assert not any(vote.block_id == B for vote in votes)


def read_inputs(validator: Validator) -> list[Input]:
    return validator.log.read(Height(4)).inputs


def test_only_messages_that_count_are_logged() -> None:
    validator = Validator(MemorySegmentFolder())
    validator.take(make_start(5), is_foreign=False)
    good = receive_vote(1, VoteType.PREVOTE, 5, A)
    for item in (
        good,
        good,  # A repetition.
        receive_vote(1, VoteType.PREVOTE, 4, A),  # Late.
        receive_vote(1, VoteType.PREVOTE, 500, A),  # Far ahead.
    ):
        validator.take(item, is_foreign=True)
    assert read_inputs(validator) == [make_start(5), good]
    assert validator.reports == []


def test_forged_messages_are_reported_and_strangers_ignored() -> None:
    validator = Validator(MemorySegmentFolder())
    validator.take(make_start(5), is_foreign=False)
    good = receive_vote(1, VoteType.PREVOTE, 5, A)
    forged = VoteReceived(replace(good.vote, block_id=B))
    proposal = make_proposal(5, 0, A)
    for item in (
        forged,
        VoteReceived(replace(forged.vote, height=Height(6))),
        ProposalReceived(replace(proposal.proposal, time_ms=2000), 1000),
    ):
        validator.take(item, is_foreign=True)
    assert validator.reports == [FORGED_PENALTY] * 3
    stranger = VoteReceived(replace(good.vote, validator=b"\x09" * 20))  # type: ignore[arg-type]
    validator.take(stranger, is_foreign=True)
    assert len(validator.reports) == 3
    assert read_inputs(validator) == [make_start(5)]


def test_a_full_room_leaves_out_early_messages_and_nothing_else() -> None:
    validator = Validator(MemorySegmentFolder())
    early = receive_vote(1, VoteType.PREVOTE, 5, A)
    later = receive_vote(2, VoteType.PREVOTE, 6, A)
    while validator.log.has_room:
        validator.log.keep_early(later)
    validator.take(early, is_foreign=True)
    assert not validator.driver.has_messages_for(5)
    validator.take(make_start(5), is_foreign=False)
    validator.take(early, is_foreign=True)
    assert read_inputs(validator)[-1] == early


def test_each_input_has_a_height() -> None:
    inputs: list[Input] = [
        make_start(7),
        make_proposal(7, 0, A),
        receive_vote(1, VoteType.PREVOTE, 7, A),
        timeout(TimeoutKind.PROPOSE, 7),
        ProposalJudged(Height(7), A, is_valid=True, time_ms=0),
    ]
    assert {get_height(item) for item in inputs} == {7}
