"""What a node sends to a peer that lacks something."""

from quorate.chain.ids import Height, Round
from quorate.chain.vote import Proposal, Vote, VoteType

from consensus.effects import Decide
from consensus.inputs import ProposalReceived, TimeoutKind, VoteReceived
from consensus.status import RoundBits, RoundStatus, Step, get_bits, make_bitmap, read_bitmap
from tests.consensus.scenario import BLOCK_TIME_MS, Scenario

LIMIT = 100


def describe(scenario: Scenario, messages: list[Vote | Proposal]) -> list[tuple[object, ...]]:
    """Return type, sender and round of messages."""
    return [
        (m.type.name.lower(), scenario.names[m.validator], m.round)
        if isinstance(m, Vote)
        else ("proposal", scenario.names[m.proposer], m.round)
        for m in messages
    ]


def by_index(scenario: Scenario, names: str) -> list[str]:
    """Return letters in the order of the validator set."""
    index = scenario.validators.index_by_address
    return sorted(names, key=lambda name: index[scenario.keys[name].address])


def make_pair() -> tuple[Scenario, Scenario]:
    """Return A, which has the messages of round 0, and D, which has begun the height."""
    ahead, behind = Scenario("A"), Scenario("D")
    for scenario in (ahead, behind):
        scenario.start()
    ahead.propose("X")
    ahead.judge("X")
    ahead.prevote("BC", "X")
    ahead.precommit("B", "X")
    return ahead, behind


def feed(scenario: Scenario, messages: list[Vote | Proposal]) -> None:
    for message in messages:
        if isinstance(message, Vote):
            scenario.feed(VoteReceived(message))
        else:
            scenario.feed(ProposalReceived(message, BLOCK_TIME_MS))


def test_everything_is_sent_to_one_that_has_nothing_and_nothing_twice() -> None:
    ahead, behind = make_pair()
    repairs = ahead.driver.get_repairs(behind.driver.get_status(), LIMIT)
    assert describe(ahead, repairs) == [
        ("proposal", "A", 0),
        *(("prevote", name, 0) for name in by_index(ahead, "BC")),
        ("precommit", "B", 0),
    ]
    feed(behind, repairs)
    assert behind.driver.get_status().has_proposal
    assert ahead.driver.get_repairs(behind.driver.get_status(), LIMIT) == []


def test_each_message_that_is_missing_is_sent_alone() -> None:
    ahead, behind = make_pair()
    everything = ahead.driver.get_repairs(behind.driver.get_status(), LIMIT)
    for missing in everything:
        peer = Scenario("D")
        peer.start()
        feed(peer, [message for message in everything if message != missing])
        assert ahead.driver.get_repairs(peer.driver.get_status(), LIMIT) == [missing]


def test_the_limit_holds_and_the_most_useful_comes_first() -> None:
    ahead, behind = make_pair()
    status = behind.driver.get_status()
    everything = ahead.driver.get_repairs(status, LIMIT)
    for limit in range(len(everything) + 1):
        assert ahead.driver.get_repairs(status, limit) == everything[:limit]
    assert ahead.driver.get_repairs(status, -1) == []


def test_a_peer_in_an_earlier_round_gets_its_round_and_this_one() -> None:
    ahead, behind = make_pair()
    ahead.timeout(TimeoutKind.PRECOMMIT)
    ahead.propose("Y", 1)
    ahead.prevote("AC", None, 1)
    feed(behind, ahead.driver.get_repairs(behind.driver.get_status(), 2))
    repairs = ahead.driver.get_repairs(behind.driver.get_status(), LIMIT)
    assert [(kind, round_) for kind, _, round_ in describe(ahead, repairs)] == [
        ("prevote", 0),
        ("precommit", 0),
        ("proposal", 1),
        ("prevote", 1),
        ("prevote", 1),
    ]
    feed(behind, repairs)
    assert behind.driver.round == 1
    assert ahead.driver.get_repairs(behind.driver.get_status(), LIMIT) == []


def test_a_peer_in_a_later_round_gets_what_is_here_of_that_round() -> None:
    behind, ahead = make_pair()
    for round_ in range(2):
        ahead.timeout(TimeoutKind.PRECOMMIT, round_)
    behind.prevote("B", None, 2)
    repairs = behind.driver.get_repairs(ahead.driver.get_status(), LIMIT)
    assert describe(behind, repairs) == [("prevote", "B", 2)]
    # Round 0 comes along once the peer names it, for a proposal that rests on its polka.
    ahead.propose("X", 2, 0)
    repairs = behind.driver.get_repairs(ahead.driver.get_status(), LIMIT)
    assert describe(behind, repairs) == [
        ("prevote", "B", 2),
        *(("prevote", name, 0) for name in by_index(behind, "BC")),
        ("precommit", "B", 0),
    ]


def test_a_proposal_of_a_past_round_is_not_sent() -> None:
    ahead, behind = make_pair()
    status = behind.driver.get_status()
    listed = RoundStatus(status.height, Round(1), Step.PROPOSE, (get_bits(status, 0),))
    repairs = ahead.driver.get_repairs(listed, LIMIT)
    assert len(repairs) == 3
    assert all(isinstance(message, Vote) for message in repairs)


def test_the_polka_of_the_round_that_a_proposal_names_is_sent() -> None:
    ahead, behind = Scenario("B"), Scenario("D")
    for scenario in (ahead, behind):
        scenario.start()
        scenario.judge("X")
    ahead.propose("X")
    ahead.prevote("ABC", "X")
    for scenario in (ahead, behind):
        for round_ in range(12):
            scenario.timeout(TimeoutKind.PRECOMMIT, round_)
        scenario.propose("X", 12, 0)
    # Round 0 has left the window, but D wants it again, and B has pinned it.
    repairs = ahead.driver.get_repairs(behind.driver.get_status(), LIMIT)
    assert describe(ahead, repairs) == [("prevote", name, 0) for name in by_index(ahead, "ABC")]
    feed(behind, repairs)
    assert behind.driver.step is Step.PREVOTE


def test_a_decided_node_sends_the_precommits() -> None:
    ahead, behind = make_pair()
    ahead.precommit("CD", "X")
    assert ahead.driver.step is Step.DECIDED
    repairs = ahead.driver.get_repairs(behind.driver.get_status(), LIMIT)
    assert describe(ahead, repairs) == [
        ("proposal", "A", 0),
        *(("precommit", name, 0) for name in by_index(ahead, "BCD")),
    ]
    feed(behind, repairs[:-1])
    assert ahead.driver.get_repairs(behind.driver.get_status(), LIMIT) == repairs[-1:]
    feed(behind, repairs[-1:])
    assert isinstance(behind.judge("X")[-1], Decide)
    assert ahead.driver.get_repairs(behind.driver.get_status(), LIMIT) == []


def test_a_node_decided_by_a_commit_sends_its_precommits() -> None:
    ahead, behind = Scenario("A"), Scenario("D")
    for scenario in (ahead, behind):
        scenario.start()
    ahead.judge("X")
    ahead.commit("BCD", "X", 3)
    repairs = ahead.driver.get_repairs(behind.driver.get_status(), LIMIT)
    assert describe(ahead, repairs) == [("precommit", name, 3) for name in by_index(ahead, "BCD")]


def test_a_peer_that_rests_before_this_height_is_woken() -> None:
    ahead, _ = make_pair()
    resting = Scenario("D")
    repairs = ahead.driver.get_repairs(resting.driver.get_status(), LIMIT)
    assert len(repairs) == 4
    feed(resting, repairs)
    assert resting.driver.has_messages_for(1)


def test_nothing_is_sent_to_peers_at_other_heights_or_done_with_this_one() -> None:
    ahead, behind = make_pair()
    here = behind.driver.get_status()
    for height, step in ((1, Step.DECIDED), (2, Step.PROPOSE), (0, Step.PRECOMMIT)):
        status = RoundStatus(Height(height), here.round, step, here.rounds)
        assert ahead.driver.get_repairs(status, LIMIT) == []
    assert Scenario("D").driver.get_repairs(here, LIMIT) == []


def test_a_status_of_nonsense_is_harmless() -> None:
    ahead, _ = make_pair()
    full = b"\xff" * 128
    bits = RoundBits(Round(0), has_proposal=False, prevotes=full, precommits=full)
    far = RoundBits(Round(2**31 - 1), has_proposal=False, prevotes=b"", precommits=b"\0" * 9)
    status = RoundStatus(Height(1), Round(2**31 - 1), Step.PROPOSE, (far, bits, bits, far))
    assert ahead.driver.get_repairs(status, LIMIT) == []
    short = RoundBits(Round(0), has_proposal=True, prevotes=b"", precommits=b"\0" * 128)
    status = RoundStatus(Height(1), Round(0), Step.PROPOSE, (short,))
    assert len(ahead.driver.get_repairs(status, LIMIT)) == 3


def test_bitmaps_go_there_and_back() -> None:
    for bits in (0, 1, 0x80, 0x100, 2**1023):
        assert read_bitmap(make_bitmap(bits)) == bits
    assert make_bitmap(0b1_0000_0010) == b"\x02\x01"


def test_votes_of_both_types_are_told_apart() -> None:
    ahead, behind = make_pair()
    behind.prevote("B", "X")
    repairs = ahead.driver.get_repairs(behind.driver.get_status(), LIMIT)
    kinds = [m.type for m in repairs if isinstance(m, Vote) and ahead.names[m.validator] == "B"]
    assert kinds == [VoteType.PRECOMMIT]
