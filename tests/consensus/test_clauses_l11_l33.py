"""Rounds begin and proposals are voted on: L11-L33 of Algorithm 1."""

import pytest

from consensus.effects import (
    Broadcast,
    JudgeProposal,
    RequestProposal,
    UnsignedProposal,
)
from consensus.inputs import TimeoutKind
from consensus.status import Step
from tests.consensus.expectations import precommit, prevote, schedule, start_locked
from tests.consensus.scenario import BLOCK_TIME_MS, Scenario, make_block

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


def test_l28_a_lock_of_a_later_round_agrees_with_its_own_value() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.prevote("ABC", "X")
    scenario.timeout(TimeoutKind.PRECOMMIT)
    scenario.judge("X")
    scenario.propose("X", 1)
    assert scenario.prevote("ABD", "X", 1) == [precommit("X", 1)]
    scenario.timeout(TimeoutKind.PRECOMMIT, 1)
    assert scenario.propose("X", 2, 0) == [prevote("X", 2)]


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
