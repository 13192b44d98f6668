"""Votes are counted and timeouts elapse: L34-L67 of Algorithm 1."""

import pytest
from quorate.chain.errors import InvariantError

from consensus.effects import (
    Decide,
    JudgeProposal,
)
from consensus.inputs import TimeoutKind
from consensus.status import Step
from tests.consensus.expectations import precommit, prevote, schedule, start_locked
from tests.consensus.scenario import Scenario, make_block

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
    assert scenario.timeout(TimeoutKind.PROPOSE) == [prevote(None), precommit("X")]


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


def test_l49_a_second_precommit_counts_for_the_proposed_block() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X")
    scenario.precommit("C", None)
    scenario.precommit("AB", "X")
    assert scenario.driver.step is not Step.DECIDED
    effects = scenario.precommit("C", "X")
    assert effects[-1] == Decide(scenario.make_commit("ABC", "X"), 0)


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


def test_l61_the_lock_stays() -> None:
    scenario = start_locked()
    scenario.timeout(TimeoutKind.PROPOSE, 1)
    assert scenario.timeout(TimeoutKind.PREVOTE, 1) == [precommit(None, 1)]
    machine = scenario.driver._machine
    assert machine is not None
    assert (machine.locked_block, machine.locked_round) == (make_block("X"), 0)


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
