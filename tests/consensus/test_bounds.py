"""Every buffer reaches its named maximum and goes no further; what is dropped can be repaired."""

import pytest
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError, InvariantError
from quorate.chain.ids import INT64_MAX, ROUND_MAX, Height, PublicKey, Round, Signature
from quorate.chain.validators import POWER_MAX, VALIDATORS_MAX, Validator
from quorate.chain.vote import Commit, VoteType

from consensus import algorithm
from consensus.early_messages import EARLY_MESSAGES_PER_VALIDATOR_MAX, FUTURE_HEIGHTS_MAX
from consensus.effects import JudgeProposal
from consensus.inputs import (
    INPUT_BYTES_MAX,
    CommitReceived,
    StartHeight,
    TimeoutKind,
    VoteReceived,
    decode_input,
    encode_input,
)
from consensus.rotation import PROPOSAL_ROUNDS_AHEAD_MAX, Rotation
from consensus.round_votes import (
    FUTURE_ROUNDS_PER_VALIDATOR_MAX,
    PAST_ROUNDS_MAX,
    PINNED_ROUNDS_MAX,
    RoundKeeper,
)
from consensus.status import (
    BITMAP_BYTES_MAX,
    ROUND_STATUS_BYTES_MAX,
    STATUS_ROUNDS_MAX,
    RoundBits,
    RoundStatus,
    Step,
)
from consensus.timeouts import TIMEOUT_MS_MAX, TimelinessBounds, TimeoutConfig
from consensus.verdicts import VERDICTS_MAX, Verdicts
from consensus.verifier import VERIFIED_MESSAGES_MAX, SignatureVerifier
from tests.consensus.scenario import CHAIN_ID, Scenario, make_block


def get_keeper(scenario: Scenario) -> RoundKeeper:
    machine = scenario.driver._machine
    assert machine is not None
    return machine.keeper


# --- rounds ----------------------------------------------------------------------------------


def test_one_validator_is_kept_in_few_later_rounds() -> None:
    scenario = Scenario("D")
    scenario.start()
    for round_ in (3, 1, 7, 5, 9, 2):
        scenario.prevote("A", None, round_)
        scenario.precommit("A", None, round_)
    # Its newest rounds stay, so that validators which are ahead can be seen together.
    assert get_keeper(scenario).get_later_rounds() == [7, 9]
    assert FUTURE_ROUNDS_PER_VALIDATOR_MAX == 2
    scenario.prevote("B", None, 9)
    assert scenario.driver.round == 9


def test_a_proposal_takes_a_place_among_later_rounds_too() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X", 1)
    scenario.propose("X", 5)
    assert get_keeper(scenario).get_later_rounds() == [1, 5]
    scenario.propose("X", 9)
    assert get_keeper(scenario).get_later_rounds() == [5, 9]
    scenario.prevote("B", None, 1)
    assert get_keeper(scenario).get_later_rounds() == [5, 9]


def test_a_round_left_by_its_senders_is_not_followed() -> None:
    scenario = Scenario("D")
    scenario.height = 1
    # In the order in which early messages are taken up, two are in round 5 before one leaves it.
    for name, rounds in (("A", (5,)), ("B", (5, 6, 7))):
        for round_ in rounds:
            scenario.prevote(name, None, round_)
    scenario.start()
    assert scenario.driver.round == 0
    assert get_keeper(scenario).get_later_rounds() == [5, 6, 7]
    scenario.prevote("A", None, 7)
    assert scenario.driver.round == 7


def test_validators_do_not_take_each_others_places() -> None:
    scenario = Scenario("D", powers=(1,) * 7)
    scenario.start()
    for round_ in range(1, 30):
        scenario.prevote("A", None, round_)
    scenario.prevote("B", None, 5)
    scenario.prevote("C", None, 6)
    assert get_keeper(scenario).get_later_rounds() == [5, 6, 28, 29]


def test_past_rounds_fall_out_of_the_window() -> None:
    scenario = Scenario("D")
    scenario.start()
    for round_ in range(30):
        scenario.prevote("A", None, round_)
        scenario.timeout(TimeoutKind.PRECOMMIT, round_)
    keeper = get_keeper(scenario)
    assert len(keeper) == PAST_ROUNDS_MAX + 1
    assert keeper.get(30 - PAST_ROUNDS_MAX - 1) is None
    scenario.prevote("B", None, 3)
    assert len(keeper) == PAST_ROUNDS_MAX + 1


def test_locked_valid_and_named_rounds_are_kept_in_spite_of_the_window() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X")
    scenario.prevote("ABD", "X")
    scenario.timeout(TimeoutKind.PRECOMMIT, 0)
    for round_ in range(1, 20):
        scenario.timeout(TimeoutKind.PRECOMMIT, round_)
    keeper = get_keeper(scenario)
    locked = keeper.get(0)
    assert locked is not None
    assert locked.prevotes.has_quorum_for(make_block("X"))
    # The proposal names round 5, of which nothing is here any more; its polka may come again.
    assert keeper.get(5) is None
    scenario.propose("Y", 20, 5)
    scenario.judge("Y")
    assert scenario.driver.get_status().rounds[1].round == 5
    assert scenario.driver.step is Step.PROPOSE
    scenario.prevote("ABC", "Y", 5)
    assert scenario.driver.step is Step.PREVOTE
    scenario.timeout(TimeoutKind.PRECOMMIT, 20)
    assert keeper.get(5) is None
    assert len(keeper) <= PAST_ROUNDS_MAX + 1 + PINNED_ROUNDS_MAX


def test_a_proposal_far_ahead_is_dropped_without_turning_the_rotation_there() -> None:
    scenario = Scenario("D")
    scenario.start()
    ahead = PROPOSAL_ROUNDS_AHEAD_MAX
    scenario.propose("X", ahead)
    assert get_keeper(scenario).get_later_rounds() == [ahead]
    scenario.propose("X", ahead + 1)
    scenario.propose("X", ROUND_MAX, by="A")
    assert get_keeper(scenario).get_later_rounds() == [ahead]


def test_the_rotation_keeps_a_window_and_agrees_with_the_validator_set() -> None:
    scenario = Scenario("D", powers=(1, 2, 3, 4))
    rotation = Rotation(scenario.validators)
    for round_ in (0, 1, 2, 40, 41, 90):
        rotation.enter(round_)
        for seen in range(round_, round_ + PROPOSAL_ROUNDS_AHEAD_MAX + 1):
            expected = scenario.validators.get_proposer(seen).address
            assert rotation.get_proposer(seen) == expected
        assert rotation.get_proposer(round_ + PROPOSAL_ROUNDS_AHEAD_MAX + 1) is None
        assert len(rotation) <= PAST_ROUNDS_MAX + 1 + PROPOSAL_ROUNDS_AHEAD_MAX
    assert rotation.get_proposer(90 - PAST_ROUNDS_MAX) is not None
    assert rotation.get_proposer(90 - PAST_ROUNDS_MAX - 1) is None


def test_the_firing_of_rules_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario("D")
    monkeypatch.setattr(algorithm, "RULES", (lambda _machine: True,))
    with pytest.raises(InvariantError, match="fired"):
        scenario.start()


# --- verdicts --------------------------------------------------------------------------------


def test_verdicts_are_bounded_and_keep_what_is_protected() -> None:
    verdicts = Verdicts()
    protected = (None, make_block("0"))
    for number in range(VERDICTS_MAX + 10):
        question = JudgeProposal(1, number, make_block(str(number)), None)
        assert verdicts.ask(question, protected)
        assert not verdicts.ask(question, protected)
    assert len(verdicts) == VERDICTS_MAX
    open_rounds = [question.round for question in verdicts.get_open()]
    assert open_rounds == [0, *range(11, VERDICTS_MAX + 10)]


def test_a_round_per_verdict_for_longer_than_verdicts_are_kept() -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X")
    scenario.prevote("ABD", "X")
    scenario.timeout(TimeoutKind.PRECOMMIT)
    for round_ in range(1, VERDICTS_MAX + 10):
        if scenario.proposer_of(round_) != "D":
            scenario.propose(f"Y{round_}", round_)
        scenario.timeout(TimeoutKind.PRECOMMIT, round_)
    machine = scenario.driver._machine
    assert machine is not None
    assert len(machine.verdicts) <= VERDICTS_MAX
    assert machine.verdicts.is_valid(make_block("X"))


# --- early messages --------------------------------------------------------------------------


def send_early(scenario: Scenario, name: str, height: int, round_: int) -> None:
    vote = scenario.make_vote(name, VoteType.PREVOTE, None, round_, height)
    scenario.feed(VoteReceived(vote))


def test_early_messages_are_bounded_by_height() -> None:
    scenario = Scenario("D")
    scenario.start()
    for height in range(2, 6):
        send_early(scenario, "A", height, 0)
        assert scenario.driver.has_messages_for(height) == (height <= 1 + FUTURE_HEIGHTS_MAX)
    assert not scenario.driver.has_messages_for(1)


def test_early_messages_of_heights_left_out_are_forgotten() -> None:
    scenario = Scenario("D")
    scenario.start()
    send_early(scenario, "A", 2, 0)
    send_early(scenario, "A", 3, 0)
    scenario.start(3)
    assert not scenario.driver.has_messages_for(2)
    assert not scenario.driver.has_messages_for(3)


def test_early_messages_are_bounded_by_validator_and_the_newest_rounds_stay() -> None:
    scenario = Scenario("D")
    scenario.start()
    for round_ in range(EARLY_MESSAGES_PER_VALIDATOR_MAX + 4):
        send_early(scenario, "A", 2, round_)
        send_early(scenario, "A", 2, round_)
    send_early(scenario, "A", 2, 0)
    send_early(scenario, "B", 2, 1)
    early = scenario.driver._early
    taken = [
        (message.vote.validator, message.vote.round)
        for message in early.take(2)
        if isinstance(message, VoteReceived)
    ]
    a, b = scenario.keys["A"].address, scenario.keys["B"].address
    assert taken == [
        *((a, round_) for round_ in range(4, EARLY_MESSAGES_PER_VALIDATOR_MAX + 4)),
        (b, 1),
    ]
    assert not early.has_any(2)


# --- signatures ------------------------------------------------------------------------------


def test_the_memory_of_signatures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert VERIFIED_MESSAGES_MAX >= 2 * VALIDATORS_MAX
    monkeypatch.setattr("consensus.verifier.VERIFIED_MESSAGES_MAX", 5)
    scenario = Scenario("D")
    verifier = SignatureVerifier(CHAIN_ID)
    votes = [scenario.make_vote("A", VoteType.PREVOTE, None, round_) for round_ in range(9)]
    for vote in votes:
        assert verifier.is_vote_valid(vote, scenario.validators)
    assert list(verifier._verified) == votes[4:]


# --- what is written and sent ----------------------------------------------------------------


def test_the_largest_inputs_fit_their_limit() -> None:
    validators = tuple(
        Validator(PublicKey(number.to_bytes(32, "big")), POWER_MAX, -(2**60))
        for number in range(VALIDATORS_MAX)
    )
    start = StartHeight(Height(INT64_MAX), validators, INT64_MAX, INT64_MAX, INT64_MAX)
    signatures = (Signature(bytes(64)),) * VALIDATORS_MAX
    commit = CommitReceived(
        Commit(Height(INT64_MAX), Round(ROUND_MAX), make_block("X"), signatures)
    )
    for input_ in (start, commit):
        raw = encode_input(input_)
        assert len(raw) <= INPUT_BYTES_MAX
        assert decode_input(raw) == input_
    with pytest.raises(DecodeError, match="exceeds"):
        decode_input(bytes(INPUT_BYTES_MAX + 1))


def test_the_largest_status_fits_its_limit() -> None:
    full = b"\xff" * BITMAP_BYTES_MAX
    bits = RoundBits(Round(ROUND_MAX), has_proposal=True, prevotes=full, precommits=full)
    status = RoundStatus(
        Height(INT64_MAX), Round(ROUND_MAX), Step.PRECOMMIT, (bits,) * STATUS_ROUNDS_MAX
    )
    raw = encode(status)
    assert decode(RoundStatus, raw, ROUND_STATUS_BYTES_MAX) == status
    longer = RoundStatus(Height(1), Round(0), Step.PROPOSE, (bits,) * (STATUS_ROUNDS_MAX + 1))
    with pytest.raises(DecodeError):
        decode(RoundStatus, encode(longer), 2 * ROUND_STATUS_BYTES_MAX)
    wider = RoundBits(Round(0), has_proposal=True, prevotes=full + b"\1", precommits=b"")
    with pytest.raises(DecodeError):
        decode(RoundBits, encode(wider), ROUND_STATUS_BYTES_MAX)


def test_a_status_names_few_rounds_and_the_most_likely_ones() -> None:
    scenario = Scenario("A", powers=(1,) * 31)
    scenario.start()
    names = [name for name in scenario.keys if name != "A"]
    for number, name in enumerate(names[:20]):
        scenario.prevote(name, None, 100 + number)
    for name in names[20:25]:
        scenario.prevote(name, None, 7)
    rounds = [bits.round for bits in scenario.driver.get_status().rounds]
    assert rounds == [0, 7, *range(100, 100 + STATUS_ROUNDS_MAX - 2)]


# --- durations -------------------------------------------------------------------------------


def test_timeouts_are_bounded() -> None:
    config = TimeoutConfig()
    assert config.compute_duration_ms(TimeoutKind.PROPOSE, ROUND_MAX) == TIMEOUT_MS_MAX
    assert config.compute_duration_ms(TimeoutKind.PREVOTE, 2) == 2_000
    with pytest.raises(ValueError, match="timeout propose"):
        TimeoutConfig(propose_ms=TIMEOUT_MS_MAX + 1)
    with pytest.raises(ValueError, match="timeout precommit"):
        TimeoutConfig(precommit_delta_ms=-1)


def test_the_growth_of_the_delay_is_bounded() -> None:
    bounds = TimelinessBounds(precision_ms=0, message_delay_ms=10)
    assert bounds.is_timely(0, 137_806, 100)
    assert bounds.is_timely(0, 137_806, ROUND_MAX)
    assert not bounds.is_timely(0, 137_807, ROUND_MAX)
