"""One test or more for each clause of Algorithm 1, named by the clause's line."""

import re

import pytest
from quorate.chain.errors import InvariantError
from quorate.chain.vote import VoteType

from consensus import algorithm
from consensus.effects import (
    Broadcast,
    Decide,
    JudgeProposal,
    RequestProposal,
    ScheduleTimeout,
    UnsignedProposal,
    UnsignedVote,
)
from consensus.inputs import TimeoutKind
from consensus.status import Step
from tests.consensus.scenario import BLOCK_TIME_MS, Scenario, make_block

CLAUSES = {
    11: "start_round",
    22: "fresh_proposal",
    28: "reproposal",
    34: "any_prevotes",
    36: "proposal_and_polka",
    44: "nil_polka",
    47: "any_precommits",
    49: "commit",
    55: "later_round",
    57: "timeout_propose",
    61: "timeout_prevote",
    65: "timeout_precommit",
}


def prevote(block: str | None, round_: int = 0) -> Broadcast:
    block_id = None if block is None else make_block(block)
    return Broadcast(UnsignedVote(VoteType.PREVOTE, 1, round_, block_id))


def precommit(block: str | None, round_: int = 0) -> Broadcast:
    block_id = None if block is None else make_block(block)
    return Broadcast(UnsignedVote(VoteType.PRECOMMIT, 1, round_, block_id))


def schedule(kind: TimeoutKind, round_: int, duration_ms: int) -> ScheduleTimeout:
    return ScheduleTimeout(kind, 1, round_, duration_ms)


def start_locked(*, others: str = "AB") -> Scenario:
    """Return D in round 1, locked on X in round 0."""
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X")
    assert scenario.prevote(others + "D", "X") == [precommit("X")]
    scenario.timeout(TimeoutKind.PRECOMMIT)
    assert (scenario.driver.round, scenario.driver.step) == (1, Step.PROPOSE)
    return scenario


def test_each_clause_has_a_function_and_a_test() -> None:
    functions = {
        int(match[2]): match[1]
        for name in vars(algorithm.HeightMachine)
        if (match := re.fullmatch(r"(?:upon_)?(\w+)_l(\d+)", name))
    }
    assert functions == CLAUSES
    tested = {int(match[1]) for name in globals() if (match := re.match(r"test_l(\d+)_", name))}
    assert tested == set(CLAUSES)


def test_each_rule_without_a_timeout_is_tried() -> None:
    tried = [int(rule.__name__.rsplit("_l", 1)[1]) for rule in algorithm.RULES]
    assert sorted(tried) == [22, 28, 34, 36, 44, 47, 49, 55]


# --- L11: StartRound -------------------------------------------------------------------------


def test_l11_others_wait_for_the_proposal() -> None:
    scenario = Scenario("D")
    assert scenario.start() == [schedule(TimeoutKind.PROPOSE, 0, 3000)]
    assert (scenario.driver.height, scenario.driver.round) == (1, 0)
    assert scenario.driver.step is Step.PROPOSE


def test_l11_the_proposer_asks_for_a_block_and_proposes_it() -> None:
    scenario = Scenario("A")
    assert scenario.start() == [
        schedule(TimeoutKind.PROPOSE, 0, 3000),
        RequestProposal(1, 0),
    ]
    content = UnsignedProposal(1, 0, -1, make_block("X"), BLOCK_TIME_MS)
    assert scenario.propose_block("X") == [Broadcast(content)]
    assert scenario.propose_block("Y") == []


def test_l11_a_block_that_comes_after_the_timeout_is_not_proposed() -> None:
    scenario = Scenario("A")
    scenario.start()
    assert scenario.timeout(TimeoutKind.PROPOSE) == [prevote(None)]
    assert scenario.propose_block("X") == []


def test_l11_a_block_nobody_asked_for_is_not_proposed() -> None:
    scenario = Scenario("D")
    scenario.start()
    assert scenario.propose_block("X") == []
    assert scenario.propose_block("X", round_=3) == []


def test_l11_the_proposer_repeats_its_valid_value() -> None:
    scenario = Scenario("B")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X")
    scenario.prevote("ACD", "X")
    content = UnsignedProposal(1, 1, 0, make_block("X"), BLOCK_TIME_MS)
    assert scenario.timeout(TimeoutKind.PRECOMMIT) == [
        schedule(TimeoutKind.PROPOSE, 1, 3500),
        Broadcast(content),
    ]


def test_l11_a_valid_value_is_repeated_by_one_that_is_not_locked() -> None:
    scenario = Scenario("B")
    scenario.start()
    scenario.propose("X")
    scenario.timeout(TimeoutKind.PROPOSE)
    scenario.timeout(TimeoutKind.PREVOTE)
    scenario.prevote("ACD", "X")
    scenario.judge("X")
    content = UnsignedProposal(1, 1, 0, make_block("X"), BLOCK_TIME_MS)
    assert Broadcast(content) in scenario.timeout(TimeoutKind.PRECOMMIT)


# --- L22: a fresh proposal -------------------------------------------------------------------


def test_l22_a_valid_proposal_gets_a_prevote() -> None:
    scenario = Scenario("D")
    scenario.start()
    proposal = scenario.make_proposal("X")
    assert scenario.propose("X") == [JudgeProposal(1, 0, make_block("X"), proposal)]
    assert scenario.judge("X") == [prevote("X")]
    assert scenario.driver.step is Step.PREVOTE


def test_l22_an_invalid_proposal_gets_a_nil_prevote() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    assert scenario.judge("X", is_valid=False) == [prevote(None)]


def test_l22_without_a_verdict_nothing_happens_until_the_timeout() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    assert scenario.driver.step is Step.PROPOSE
    assert scenario.timeout(TimeoutKind.PROPOSE) == [prevote(None)]
    assert scenario.judge("X") == []


def test_l22_only_the_first_verdict_counts() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.judge("X", is_valid=False)
    scenario.judge("X")
    assert scenario.propose("X") == [prevote(None)]


def test_l22_locked_on_another_value_means_nil_without_waiting() -> None:
    scenario = start_locked()
    proposal = scenario.make_proposal("Y", 1)
    assert scenario.propose("Y", 1) == [
        JudgeProposal(1, 1, make_block("Y"), proposal),
        prevote(None, 1),
    ]


def test_l22_locked_on_the_same_value_means_a_prevote() -> None:
    scenario = start_locked()
    assert scenario.propose("X", 1) == [prevote("X", 1)]


@pytest.mark.parametrize(
    ("received_ms", "round_", "expected"),
    [
        (BLOCK_TIME_MS - 500, 0, "X"),
        (BLOCK_TIME_MS - 501, 0, None),
        (BLOCK_TIME_MS + 2_500, 0, "X"),
        (BLOCK_TIME_MS + 2_501, 0, None),
        # The bound on delay grows by a tenth with each round.
        (BLOCK_TIME_MS + 2_700, 1, "X"),
        (BLOCK_TIME_MS + 2_701, 1, None),
        (BLOCK_TIME_MS + 2_920, 2, "X"),
        (BLOCK_TIME_MS + 2_921, 2, None),
    ],
)
def test_l22_a_fresh_proposal_is_timely_or_refused(
    received_ms: int, round_: int, expected: str | None
) -> None:
    scenario = Scenario("D")
    scenario.start()
    for past in range(round_):
        scenario.timeout(TimeoutKind.PRECOMMIT, past)
    scenario.judge("X")
    assert scenario.propose("X", round_, received_ms=received_ms) == [prevote(expected, round_)]


def test_l22_the_time_a_proposal_claims_is_that_of_its_block() -> None:
    scenario = Scenario("D")
    scenario.start()
    claimed = BLOCK_TIME_MS + 5_000
    scenario.propose("X", time_ms=claimed, received_ms=claimed)
    assert scenario.judge("X") == [prevote(None)]
    # The lie is the proposal's, not the block's: another proposal of it is as good as any.
    scenario.timeout(TimeoutKind.PRECOMMIT)
    assert scenario.propose("X", 1) == [prevote("X", 1)]


def test_l22_timeliness_is_fixed_at_receipt() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X", received_ms=BLOCK_TIME_MS + 9_000)
    assert scenario.driver.step is Step.PREVOTE
    scenario = Scenario("D")
    scenario.start()
    # Received in time for round 1, while the node is still in round 0.
    scenario.propose("X", 1, received_ms=BLOCK_TIME_MS + 2_700)
    scenario.judge("X")
    assert scenario.timeout(TimeoutKind.PRECOMMIT)[-1] == prevote("X", 1)


def test_l22_the_wrong_proposer_is_ignored() -> None:
    scenario = Scenario("D")
    scenario.start()
    assert scenario.propose("X", by="B") == []
    assert scenario.propose("X") != []


def test_l22_only_the_first_proposal_of_a_round_counts() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    assert scenario.propose("Y") == []
    scenario.judge("Y")
    assert scenario.driver.step is Step.PROPOSE
    assert scenario.judge("X") == [prevote("X")]


# --- L28: a proposal with a proof of lock ----------------------------------------------------


def test_l28_a_polka_of_an_earlier_round_supports_the_proposal() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.timeout(TimeoutKind.PROPOSE)
    scenario.prevote("ABC", "X")
    scenario.timeout(TimeoutKind.PRECOMMIT)
    scenario.judge("X")
    assert scenario.propose("X", 1, 0) == [prevote("X", 1)]


def test_l28_without_the_polka_nothing_happens_until_the_timeout() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.prevote("AB", "X")
    scenario.timeout(TimeoutKind.PRECOMMIT)
    scenario.judge("X")
    assert scenario.propose("X", 1, 0) == []
    assert scenario.driver.step is Step.PROPOSE
    # The missing prevote comes late, and completes the polka.
    assert scenario.prevote("C", "X") == [prevote("X", 1)]


def test_l28_a_polka_for_another_block_is_no_support() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.prevote("ABC", "Y")
    scenario.timeout(TimeoutKind.PRECOMMIT)
    scenario.judge("X")
    scenario.propose("X", 1, 0)
    assert scenario.driver.step is Step.PROPOSE


def test_l28_waits_for_the_verdict_and_refuses_an_invalid_block() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.timeout(TimeoutKind.PRECOMMIT)
    scenario.prevote("ABC", "X")
    scenario.propose("X", 1, 0)
    assert scenario.driver.step is Step.PROPOSE
    assert scenario.judge("X", is_valid=False) == [prevote(None, 1)]


def test_l28_a_late_verdict_still_enables_it() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.timeout(TimeoutKind.PRECOMMIT)
    scenario.prevote("ABC", "X")
    scenario.propose("X", 1, 0)
    assert scenario.judge("X") == [prevote("X", 1)]


def test_l28_timeliness_does_not_count() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.timeout(TimeoutKind.PRECOMMIT)
    scenario.prevote("ABC", "X")
    scenario.judge("X")
    late_ms = BLOCK_TIME_MS + 900_000
    assert scenario.propose("X", 1, 0, received_ms=late_ms) == [prevote("X", 1)]


def test_l28_a_lock_of_a_later_round_refuses() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.prevote("ABC", "Y")
    scenario.timeout(TimeoutKind.PRECOMMIT)
    scenario.judge("X")
    scenario.propose("X", 1)
    assert scenario.prevote("ABD", "X", 1) == [precommit("X", 1)]
    scenario.timeout(TimeoutKind.PRECOMMIT, 1)
    assert scenario.propose("Y", 2, 0)[-1] == prevote(None, 2)


def test_l28_a_lock_of_the_same_round_agrees() -> None:
    scenario = start_locked()
    assert scenario.propose("X", 1, 0) == [prevote("X", 1)]


def test_l28_a_lock_of_an_earlier_round_gives_way() -> None:
    scenario = start_locked()
    scenario.prevote("ABC", "Y", 1)
    scenario.timeout(TimeoutKind.PRECOMMIT, 1)
    scenario.judge("Y")
    assert scenario.propose("Y", 2, 1) == [prevote("Y", 2)]


@pytest.mark.parametrize("valid_round", [1, 2])
def test_l28_a_valid_round_that_is_not_earlier_is_ignored(valid_round: int) -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.timeout(TimeoutKind.PRECOMMIT)
    scenario.prevote("ABC", "X", 1)
    scenario.judge("X")
    assert scenario.propose("X", 1, valid_round) == []
    assert scenario.driver.step is Step.PROPOSE


# --- L34: a quorum of prevotes ---------------------------------------------------------------


def test_l34_a_quorum_of_prevotes_starts_the_timeout_once() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.timeout(TimeoutKind.PROPOSE)
    assert scenario.prevote("A", "X") == []
    assert scenario.prevote("B", "Y") == []
    assert scenario.prevote("C", None) == [schedule(TimeoutKind.PREVOTE, 0, 1000)]
    assert scenario.prevote("D", None) == []


def test_l34_needs_the_step_prevote() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.prevote("A", "X")
    scenario.prevote("B", "Y")
    assert scenario.prevote("C", None) == []
    assert scenario.timeout(TimeoutKind.PROPOSE) == [
        prevote(None),
        schedule(TimeoutKind.PREVOTE, 0, 1000),
    ]


# --- L36: a polka ----------------------------------------------------------------------------


def test_l36_a_polka_locks_and_precommits() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X")
    assert scenario.prevote("AB", "X") == []
    assert scenario.prevote("D", "X") == [precommit("X")]
    machine = scenario.driver._machine
    assert machine is not None
    assert (machine.locked_block, machine.locked_round) == (make_block("X"), 0)
    assert (machine.valid_block, machine.valid_round) == (make_block("X"), 0)
    assert machine.step is Step.PRECOMMIT
    assert scenario.prevote("C", "X") == []


def test_l36_needs_a_quorum_of_the_power() -> None:
    # 4 of 6 is two thirds and not more than two thirds.
    scenario = Scenario("D", powers=(1, 1, 2, 2))
    big = [name for name in "ABCD" if scenario.power_of(name) == 2]
    small = [name for name in "ABCD" if scenario.power_of(name) == 1]
    scenario.start()
    scenario.timeout(TimeoutKind.PROPOSE)
    scenario.judge("X")
    scenario.prevote(big[0] + big[1], "X")
    assert scenario.driver.step is Step.PREVOTE
    assert scenario.prevote(small[0], "X") == [precommit("X")]


def test_l36_a_polka_after_a_nil_prevote_locks_too() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.timeout(TimeoutKind.PROPOSE)
    scenario.prevote("ABC", "X")
    assert scenario.judge("X") == [precommit("X")]


def test_l36_after_the_precommit_only_the_valid_value_changes() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.timeout(TimeoutKind.PROPOSE)
    assert scenario.timeout(TimeoutKind.PREVOTE) == [precommit(None)]
    scenario.prevote("ABC", "X")
    assert scenario.judge("X") == []
    machine = scenario.driver._machine
    assert machine is not None
    assert (machine.locked_block, machine.locked_round) == (None, -1)
    assert (machine.valid_block, machine.valid_round) == (make_block("X"), 0)


def test_l36_does_not_fire_in_the_step_propose() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.judge("X")
    assert scenario.prevote("ABC", "X") == []
    assert scenario.driver.step is Step.PROPOSE


def test_l36_does_not_fire_for_an_invalid_block() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    assert scenario.judge("X", is_valid=False) == [prevote(None)]
    assert scenario.prevote("ABC", "X") == [schedule(TimeoutKind.PREVOTE, 0, 1000)]
    assert scenario.timeout(TimeoutKind.PREVOTE) == [precommit(None)]


def test_l36_a_polka_for_a_block_without_a_proposal_has_it_fetched() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X")
    # The proposer has shown Y to the others.
    assert scenario.prevote("ABC", "Y") == [
        JudgeProposal(1, 0, make_block("Y"), None),
        schedule(TimeoutKind.PREVOTE, 0, 1000),
    ]
    assert scenario.judge("Y") == [precommit("Y")]


# --- L44: a nil polka ------------------------------------------------------------------------


def test_l44_a_nil_polka_precommits_nil() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.timeout(TimeoutKind.PROPOSE)
    assert scenario.prevote("ABC", None) == [precommit(None)]
    assert scenario.driver.step is Step.PRECOMMIT


def test_l44_a_nil_polka_does_not_unlock() -> None:
    scenario = start_locked()
    scenario.timeout(TimeoutKind.PROPOSE, 1)
    assert scenario.prevote("ABC", None, 1) == [precommit(None, 1)]
    machine = scenario.driver._machine
    assert machine is not None
    assert (machine.locked_block, machine.locked_round) == (make_block("X"), 0)


def test_l44_needs_the_step_prevote() -> None:
    scenario = Scenario("D")
    scenario.start()
    assert scenario.prevote("ABC", None) == []
    assert scenario.timeout(TimeoutKind.PROPOSE) == [prevote(None), precommit(None)]


# --- L47: a quorum of precommits -------------------------------------------------------------


@pytest.mark.parametrize("step", list(Step)[:3])
def test_l47_a_quorum_of_precommits_starts_the_timeout_once_in_any_step(step: Step) -> None:
    scenario = Scenario("D")
    scenario.start()
    if step >= Step.PREVOTE:
        scenario.timeout(TimeoutKind.PROPOSE)
    if step >= Step.PRECOMMIT:
        scenario.timeout(TimeoutKind.PREVOTE)
    assert scenario.driver.step is step
    assert scenario.precommit("A", "X") == []
    assert scenario.precommit("B", "Y") == []
    assert scenario.precommit("C", None) == [schedule(TimeoutKind.PRECOMMIT, 0, 1000)]
    assert scenario.precommit("D", None) == []


# --- L49: a decision -------------------------------------------------------------------------


def test_l49_a_quorum_of_precommits_decides() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X")
    scenario.precommit("AB", "X")
    [decide] = scenario.precommit("C", "X")
    assert decide == Decide(scenario.make_commit("ABC", "X"), 0)
    assert scenario.driver.step is Step.DECIDED
    assert scenario.precommit("D", "X") == []


def test_l49_decides_at_once_in_any_earlier_round() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X")
    scenario.precommit("AB", "X")
    for round_ in range(3):
        scenario.timeout(TimeoutKind.PRECOMMIT, round_)
    assert scenario.precommit("C", "X") == [Decide(scenario.make_commit("ABC", "X"), 0)]


def test_l49_decides_in_a_later_round() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.judge("X")
    scenario.precommit("A", "X", 4)
    scenario.precommit("B", "X", 4)
    effects = scenario.precommit("C", "X", 4)
    assert effects == [Decide(scenario.make_commit("ABC", "X", 4), 4)]


def test_l49_a_missing_block_is_asked_for_once_and_decided_when_judged() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.precommit("AB", "X")
    assert scenario.precommit("C", "X") == [
        JudgeProposal(1, 0, make_block("X"), None),
        schedule(TimeoutKind.PRECOMMIT, 0, 1000),
    ]
    assert scenario.precommit("D", "X") == []
    assert scenario.timeout(TimeoutKind.PRECOMMIT) != []
    assert scenario.driver.round == 1
    assert scenario.judge("X") == [Decide(scenario.make_commit("ABC", "X"), 0)]


def test_l49_a_decided_block_found_invalid_stops_the_node() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X", is_valid=False)
    scenario.precommit("AB", "X")
    with pytest.raises(InvariantError, match="found invalid"):
        scenario.precommit("C", "X")


def test_l49_a_commit_from_a_peer_decides() -> None:
    scenario = Scenario("D")
    scenario.start()
    assert scenario.commit("ABC", "X", 2) == [JudgeProposal(1, 2, make_block("X"), None)]
    assert scenario.judge("X") == [Decide(scenario.make_commit("ABC", "X", 2), 2)]


def test_l49_a_commit_without_a_quorum_changes_nothing() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.judge("X")
    assert scenario.commit("AB", "X") == []
    assert scenario.driver.commit is None
    assert scenario.commit("ABC", "X") == [Decide(scenario.make_commit("ABC", "X"), 0)]


# --- L55: a later round ----------------------------------------------------------------------


def test_l55_more_than_a_third_in_a_later_round_is_followed() -> None:
    scenario = Scenario("D")
    scenario.start()
    assert scenario.prevote("A", None, 3) == []
    assert scenario.precommit("A", None, 3) == []
    assert scenario.driver.round == 0
    effects = scenario.precommit("B", "X", 3)
    assert effects[0] == schedule(TimeoutKind.PROPOSE, 3, 4500)
    assert (scenario.driver.round, scenario.driver.step) == (3, Step.PROPOSE)


def test_l55_needs_more_than_a_third() -> None:
    # One of three equal validators is a third and not more.
    scenario = Scenario("C", powers=(1, 1, 1))
    scenario.start()
    scenario.prevote("A", None, 1)
    assert scenario.driver.round == 0
    scenario.prevote("B", None, 1)
    assert scenario.driver.round == 1


def test_l55_a_proposal_counts_as_a_message() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.judge("X")
    scenario.propose("X", 1)
    assert scenario.driver.round == 0
    effects = scenario.prevote("A", None, 1)
    assert effects == [schedule(TimeoutKind.PROPOSE, 1, 3500), prevote("X", 1)]


def test_l55_messages_of_different_rounds_do_not_add_up() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.prevote("A", None, 1)
    scenario.prevote("B", None, 2)
    assert scenario.driver.round == 0


# --- L57, L61, L65: timeouts -----------------------------------------------------------------


def test_l57_no_proposal_in_time_means_a_nil_prevote() -> None:
    scenario = Scenario("D")
    scenario.start()
    assert scenario.timeout(TimeoutKind.PROPOSE) == [prevote(None)]
    assert scenario.timeout(TimeoutKind.PROPOSE) == []


def test_l57_means_nothing_after_the_prevote_or_for_another_round() -> None:
    scenario = Scenario("D")
    scenario.start()
    assert scenario.timeout(TimeoutKind.PROPOSE, 1) == []
    scenario.propose("X")
    assert scenario.judge("X") == [prevote("X")]
    assert scenario.timeout(TimeoutKind.PROPOSE) == []


def test_l61_no_polka_in_time_means_a_nil_precommit() -> None:
    scenario = Scenario("D")
    scenario.start()
    assert scenario.timeout(TimeoutKind.PREVOTE) == []
    scenario.timeout(TimeoutKind.PROPOSE)
    assert scenario.timeout(TimeoutKind.PREVOTE, 1) == []
    assert scenario.timeout(TimeoutKind.PREVOTE) == [precommit(None)]
    assert scenario.timeout(TimeoutKind.PREVOTE) == []


def test_l65_no_decision_in_time_means_the_next_round() -> None:
    scenario = Scenario("D")
    scenario.start()
    assert scenario.timeout(TimeoutKind.PRECOMMIT, 1) == []
    assert scenario.timeout(TimeoutKind.PRECOMMIT) == [schedule(TimeoutKind.PROPOSE, 1, 3500)]
    assert (scenario.driver.round, scenario.driver.step) == (1, Step.PROPOSE)
    assert scenario.timeout(TimeoutKind.PRECOMMIT) == []


def test_l65_the_lock_goes_along() -> None:
    scenario = start_locked()
    machine = scenario.driver._machine
    assert machine is not None
    assert (machine.locked_block, machine.locked_round) == (make_block("X"), 0)


def test_l65_timeouts_grow_with_the_round() -> None:
    scenario = Scenario("D")
    scenario.start()
    for round_ in range(4):
        scenario.timeout(TimeoutKind.PRECOMMIT, round_)
    scenario.timeout(TimeoutKind.PROPOSE, 4)
    assert scenario.prevote("ABC", None, 4) == [precommit(None, 4)]
    assert scenario.precommit("ABC", None, 4) == [schedule(TimeoutKind.PRECOMMIT, 4, 3000)]
