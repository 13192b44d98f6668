"""The door: what reaches the machine, what waits, what is dropped, what a restart needs."""

import pytest
from quorate.chain.errors import DecodeError, InvariantError
from quorate.chain.evidence import make_duplicate_vote_evidence, verify_evidence
from quorate.chain.ids import Height, Round, Signature
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import Commit, Proposal, Vote, VoteType

from consensus.driver import Driver
from consensus.effects import (
    Broadcast,
    Decide,
    JudgeProposal,
    Relay,
    ReportEvidence,
    RequestProposal,
    ScheduleTimeout,
    UnsignedProposal,
    UnsignedVote,
)
from consensus.inputs import (
    CommitReceived,
    Input,
    ProposalReceived,
    TimeoutElapsed,
    TimeoutKind,
    VoteReceived,
    decode_input,
    encode_input,
)
from consensus.status import Step
from consensus.verifier import SignatureVerifier
from tests.consensus.scenario import (
    BLOCK_TIME_MS,
    CHAIN_ID,
    TIMEOUTS,
    Scenario,
    make_block,
    make_keys,
    sign_vote,
)


def decide(scenario: Scenario, block: str = "X") -> None:
    scenario.judge(block)
    scenario.precommit("ABC", block)
    assert scenario.driver.step is Step.DECIDED


# --- heights ---------------------------------------------------------------------------------


def test_before_the_first_height_the_driver_rests() -> None:
    scenario = Scenario("D", last_height=7)
    assert (scenario.driver.height, scenario.driver.round) == (7, 0)
    assert scenario.driver.step is Step.DECIDED
    assert scenario.driver.get_pending_effects() == []
    assert scenario.driver.proposer is None
    scenario.height = 8
    assert scenario.timeout(TimeoutKind.PROPOSE) == []
    assert scenario.judge("X") == []
    assert scenario.start() == [ScheduleTimeout(TimeoutKind.PROPOSE, 8, 0, 3000)]


def test_early_messages_wait_for_their_height() -> None:
    scenario = Scenario("D")
    scenario.height = 1
    assert not scenario.driver.has_messages_for(1)
    scenario.propose("X")
    assert scenario.driver.has_messages_for(1)
    scenario.precommit("AB", "X")
    effects = scenario.start()
    assert JudgeProposal(1, 0, make_block("X"), scenario.make_proposal("X")) in effects
    assert not scenario.driver.has_messages_for(1)
    scenario.judge("X")
    assert isinstance(scenario.precommit("C", "X")[0], Decide)


def test_an_early_proposal_keeps_the_time_it_came() -> None:
    scenario = Scenario("D")
    scenario.height = 1
    scenario.propose("X", received_ms=BLOCK_TIME_MS + 2_501)
    content = UnsignedVote(VoteType.PREVOTE, 1, 0, None)
    assert Broadcast(content) in scenario.start()


def test_messages_come_early_while_the_height_before_is_at_work_or_decided() -> None:
    scenario = Scenario("D")
    scenario.start()
    vote = scenario.make_vote("A", VoteType.PREVOTE, "Y", height=2)
    scenario.feed(VoteReceived(vote))
    decide(scenario)
    other = scenario.make_vote("B", VoteType.PREVOTE, "Y", height=2)
    scenario.feed(VoteReceived(other))
    scenario.start()
    machine = scenario.driver._machine
    assert machine is not None
    assert machine.keeper.current.prevotes.get_lacking(0) == sorted(
        [vote, other], key=lambda v: scenario.validators.index_by_address[v.validator]
    )


def test_early_messages_need_a_known_set_and_a_signature() -> None:
    scenario = Scenario("D")
    vote = sign_vote(scenario.keys["A"], VoteType.PREVOTE, 1, 0, None)
    ignorant = Driver(CHAIN_ID, None, TIMEOUTS)
    assert ignorant.receive(VoteReceived(vote)) == []
    assert not ignorant.has_messages_for(1)
    forged = Vote(vote.type, vote.height, Round(1), None, vote.validator, vote.signature)
    scenario.feed(VoteReceived(forged))
    assert not scenario.driver.has_messages_for(1)
    scenario.feed(VoteReceived(vote))
    assert scenario.driver.has_messages_for(1)


def test_an_early_commit_decides_when_its_height_starts() -> None:
    scenario = Scenario("D")
    scenario.height = 1
    forged = scenario.make_commit("AB", "X")
    scenario.feed(CommitReceived(forged))
    assert not scenario.driver.has_messages_for(1)
    commit = scenario.make_commit("ABC", "X")
    scenario.feed(CommitReceived(commit))
    assert scenario.driver.has_messages_for(1)
    assert JudgeProposal(1, 0, make_block("X"), None) in scenario.start()
    assert scenario.driver.commit == commit
    assert scenario.judge("X") == [Decide(commit, 0)]


def test_messages_of_past_and_far_heights_are_dropped() -> None:
    scenario = Scenario("D", last_height=9)
    scenario.start()
    before = scenario.driver.get_status()
    for height in (1, 9, 13, 10_000):
        vote = scenario.make_vote("A", VoteType.PREVOTE, None, height=height)
        assert scenario.feed(VoteReceived(vote), with_relays=True) == []
        proposal = scenario.make_proposal("X", height=height)
        assert scenario.feed(ProposalReceived(proposal, 0), with_relays=True) == []
        assert not scenario.driver.has_messages_for(height)
    assert scenario.driver.get_status() == before


def test_heights_only_go_up_and_may_leave_some_out() -> None:
    scenario = Scenario("D", last_height=4)
    scenario.start(7)
    scenario.start(12)
    for height in (4, 11, 12):
        with pytest.raises(InvariantError, match="cannot start"):
            scenario.start(height)


def test_what_comes_after_the_decision_changes_nothing() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    decide(scenario)
    assert scenario.precommit("D", "X") == []
    assert scenario.prevote("ABC", "X", 3) == []
    assert scenario.propose("Y", 1) == []
    assert scenario.timeout(TimeoutKind.PRECOMMIT) == []
    assert scenario.commit("ABD", "X") == []
    assert (scenario.driver.round, scenario.driver.step) == (0, Step.DECIDED)


def test_flags_do_not_survive_their_height() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.timeout(TimeoutKind.PROPOSE)
    scenario.prevote("ABC", "X")
    decide(scenario)
    scenario.start()
    scenario.timeout(TimeoutKind.PROPOSE)
    scenario.prevote("AB", "X")
    assert scenario.prevote("C", "Y") == [ScheduleTimeout(TimeoutKind.PREVOTE, 2, 0, 1000)]


# --- who is who ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_stranger", [False, True])
def test_without_a_vote_the_driver_follows_in_silence(*, is_stranger: bool) -> None:
    scenario = Scenario(None)
    if is_stranger:
        [*_, stranger] = make_keys(9)
        scenario.driver = Driver(CHAIN_ID, stranger.address, TIMEOUTS)
    effects = scenario.start()
    effects += scenario.propose("X")
    effects += scenario.judge("X")
    effects += scenario.prevote("ABC", "X")
    effects += scenario.timeout(TimeoutKind.PRECOMMIT)
    for round_ in range(1, 5):
        effects += scenario.timeout(TimeoutKind.PROPOSE, round_)
        effects += scenario.timeout(TimeoutKind.PREVOTE, round_)
        effects += scenario.timeout(TimeoutKind.PRECOMMIT, round_)
    assert not any(isinstance(effect, Broadcast | RequestProposal) for effect in effects)
    assert scenario.driver.round == 5
    assert isinstance(scenario.precommit("ABC", "X", 4)[-1], Decide)


def test_votes_of_strangers_and_forged_votes_are_dropped() -> None:
    scenario = Scenario("D")
    scenario.start()
    [*_, stranger] = make_keys(9)
    vote = sign_vote(stranger, VoteType.PREVOTE, 1, 0, None)
    assert scenario.feed(VoteReceived(vote), with_relays=True) == []
    good = scenario.make_vote("A", VoteType.PREVOTE, "X")
    for forged in (
        Vote(VoteType.PRECOMMIT, *_rest(good)),
        Vote(good.type, good.height, Round(1), good.block_id, good.validator, good.signature),
        Vote(good.type, good.height, good.round, None, good.validator, good.signature),
        Vote(*_all(good)[:-1], Signature(bytes(64))),
    ):
        assert scenario.feed(VoteReceived(forged), with_relays=True) == []
    assert scenario.driver.get_status().rounds[0].prevotes == b""
    assert scenario.feed(VoteReceived(good), with_relays=True) == [Relay(good)]


def _all(vote: Vote) -> tuple[object, ...]:
    return (vote.type, vote.height, vote.round, vote.block_id, vote.validator, vote.signature)


def _rest(vote: Vote) -> tuple[object, ...]:
    return _all(vote)[1:]


def test_a_forged_proposal_does_not_take_the_place_of_the_real_one() -> None:
    scenario = Scenario("D")
    scenario.start()
    real = scenario.make_proposal("X")
    forged = Proposal(
        real.height,
        real.round,
        real.valid_round,
        make_block("Y"),
        real.time_ms,
        real.proposer,
        real.signature,
    )
    assert scenario.feed(ProposalReceived(forged, BLOCK_TIME_MS), with_relays=True) == []
    assert Relay(real) in scenario.feed(ProposalReceived(real, BLOCK_TIME_MS), with_relays=True)


def test_only_what_is_new_and_foreign_is_relayed() -> None:
    scenario = Scenario("D")
    scenario.start()
    vote = scenario.make_vote("A", VoteType.PREVOTE, "X")
    assert scenario.feed(VoteReceived(vote), with_relays=True) == [Relay(vote)]
    assert scenario.feed(VoteReceived(vote), with_relays=True) == []
    own = scenario.make_vote("D", VoteType.PREVOTE, "X")
    assert scenario.feed(VoteReceived(own), with_relays=True) == []


def test_a_vote_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Vote] = []

    def count(_chain_id: str, vote: Vote, _validators: ValidatorSet) -> bool:
        calls.append(vote)
        return True

    monkeypatch.setattr("consensus.verifier.is_vote_signature_valid", count)
    scenario = Scenario("D")
    scenario.height = 1
    votes = [scenario.make_vote(name, VoteType.PREVOTE, "X") for name in "ABC"]
    for vote in votes + votes:
        scenario.feed(VoteReceived(vote))
    scenario.start()
    for vote in votes:
        scenario.feed(VoteReceived(vote))
    assert calls == votes


def test_the_verifier_knows_members_proposals_and_commits() -> None:
    scenario = Scenario("D")
    scenario.height = 1
    verifier = SignatureVerifier(CHAIN_ID)
    vote = scenario.make_vote("A", VoteType.PREVOTE, "X")
    proposal = scenario.make_proposal("X")
    others = ValidatorSet.from_powers((key.public_key, 1) for key in make_keys(9)[5:])
    for _ in range(2):
        assert verifier.is_vote_valid(vote, scenario.validators)
        assert verifier.is_proposal_valid(proposal, scenario.validators)
        assert not verifier.is_vote_valid(vote, others)
        assert not verifier.is_proposal_valid(proposal, others)
    assert not SignatureVerifier("other").is_vote_valid(vote, scenario.validators)
    commit = scenario.make_commit("ABC", "X")
    assert verifier.is_commit_valid(commit, scenario.validators)
    short = Commit(commit.height, commit.round, commit.block_id, commit.signatures[:3])
    assert not verifier.is_commit_valid(short, scenario.validators)


# --- equivocation ----------------------------------------------------------------------------


def test_conflicting_votes_are_reported_once_for_a_round_and_type() -> None:
    scenario = Scenario("D")
    scenario.start()
    first = scenario.make_vote("C", VoteType.PREVOTE, "X")
    second = scenario.make_vote("C", VoteType.PREVOTE, None)
    scenario.feed(VoteReceived(first))
    [report] = scenario.feed(VoteReceived(second), with_relays=True)
    assert report == ReportEvidence(make_duplicate_vote_evidence(first, second))
    assert isinstance(report, ReportEvidence)
    verify_evidence(CHAIN_ID, report.evidence, scenario.validators)
    assert scenario.prevote("C", "Y") == []
    # Another type and another round are offences of their own.
    scenario.precommit("C", "X")
    assert len(scenario.precommit("C", "Y")) == 1
    scenario.prevote("C", "X", 1)
    assert len(scenario.prevote("C", "Y", 1)) == 1


def test_a_conflicting_vote_is_not_counted() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.judge("X")
    scenario.timeout(TimeoutKind.PROPOSE)
    scenario.prevote("C", None)
    scenario.prevote("C", "X")
    scenario.prevote("AB", "X")
    assert scenario.driver.step is Step.PREVOTE
    assert scenario.prevote("D", "X") == [
        Broadcast(UnsignedVote(VoteType.PRECOMMIT, 1, 0, make_block("X")))
    ]


def test_a_conflicting_vote_counts_for_the_block_that_a_proposal_names() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.judge("X")
    scenario.prevote("AB", "X")
    scenario.prevote("C", None)
    scenario.prevote("C", "X")
    scenario.timeout(TimeoutKind.PRECOMMIT)
    # The proposal claims a polka in round 0. C's vote, dropped once, is asked for again.
    assert scenario.propose("X", 1, 0) == []
    status = scenario.driver.get_status()
    [_, named] = status.rounds
    index = scenario.validators.index_by_address[scenario.keys["C"].address]
    assert (named.round, named.prevotes[0] >> index & 1) == (0, 0)
    assert scenario.prevote("C", "X") == [
        Broadcast(UnsignedVote(VoteType.PREVOTE, 1, 1, make_block("X")))
    ]


def test_a_hidden_polka_comes_to_light_by_repair() -> None:
    # C prevotes X towards A and nil towards D, and D never hears of the former.
    ahead, behind = Scenario("A"), Scenario("D")
    for scenario in (ahead, behind):
        scenario.start()
        scenario.judge("X")
        scenario.prevote("AB", "X")
    ahead.prevote("C", "X")
    behind.prevote("C", None)
    for scenario in (ahead, behind):
        scenario.timeout(TimeoutKind.PRECOMMIT)
        scenario.propose("X", 1, 0)
    assert (ahead.driver.step, behind.driver.step) == (Step.PREVOTE, Step.PROPOSE)
    repairs = ahead.driver.get_repairs(behind.driver.get_status(), 1)
    for repair in repairs:
        assert isinstance(repair, Vote)
        behind.feed(VoteReceived(repair))
    assert behind.driver.step is Step.PREVOTE


# --- a restart -------------------------------------------------------------------------------


def test_pending_effects_are_those_without_an_answer() -> None:
    scenario = Scenario("A")
    started = scenario.start()
    assert scenario.driver.get_pending_effects() == started
    [broadcast] = scenario.propose_block("X")
    [timeout, _] = started
    assert scenario.driver.get_pending_effects() == [timeout, broadcast]
    [judge] = scenario.propose("X")
    assert scenario.driver.get_pending_effects() == [judge, timeout]
    [prevote] = scenario.judge("X")
    assert scenario.driver.get_pending_effects() == [timeout, prevote]
    scenario.prevote("A", "X")
    assert scenario.driver.get_pending_effects() == [timeout]
    scenario.timeout(TimeoutKind.PROPOSE)
    assert scenario.driver.get_pending_effects() == []
    [decided] = scenario.precommit("BCD", "X")
    assert scenario.driver.get_pending_effects() == [decided]
    assert isinstance(broadcast, Broadcast)
    assert isinstance(broadcast.content, UnsignedProposal)


def test_pending_effects_of_a_round_end_with_it() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.timeout(TimeoutKind.PROPOSE)
    effects = scenario.timeout(TimeoutKind.PRECOMMIT)
    assert scenario.driver.get_pending_effects() == effects


def test_an_own_vote_that_is_fed_twice_counts_once() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.judge("X")
    scenario.propose("X")
    scenario.prevote("DDD", "X")
    assert scenario.driver.step is Step.PREVOTE
    assert scenario.prevote("AB", "X") != []


@pytest.mark.parametrize("me", ["A", "D", None])
def test_replaying_the_inputs_from_their_bytes_gives_the_same_state(me: str | None) -> None:
    scenario = Scenario(me)
    scenario.height = 1
    scenario.propose("X")
    scenario.start()
    scenario.propose_block("X")
    scenario.timeout(TimeoutKind.PROPOSE)
    scenario.prevote("ABC", "X")
    scenario.judge("X")
    scenario.timeout(TimeoutKind.PRECOMMIT)
    scenario.propose("X", 1, 0)
    scenario.commit("ABC", "X")
    again = Scenario(me)
    effects = [again.driver.receive(decode_input(encode_input(i))) for i in scenario.inputs]
    assert isinstance(effects[-1][-1], Decide)
    assert again.driver.get_status() == scenario.driver.get_status()
    assert again.driver.get_pending_effects() == scenario.driver.get_pending_effects()


def test_a_damaged_input_is_refused() -> None:
    elapsed: Input = TimeoutElapsed(TimeoutKind.PREVOTE, Height(3), Round(1))
    raw = encode_input(elapsed)
    assert decode_input(raw) == elapsed
    for damaged in (b"", raw[:-1], raw + b"\0", b"\x94\x09" + raw[2:], b"\x94\x07\x04\x03\x01"):
        with pytest.raises(DecodeError):
            decode_input(damaged)
