"""Patience with silent proposers: shrinks with missed turns, and comes back with one message."""

from dataclasses import dataclass, field, replace

import pytest
from quorate.chain.ids import Address, Hash, Height, Round, Signature
from quorate.chain.vote import BlockId, Proposal, Vote, VoteType

from consensus.effects import ScheduleTimeout
from consensus.inputs import ProposalReceived, TimeoutKind, VoteReceived
from node.agreement.patience import FLOOR_DELAYS, FLOOR_MS_MIN, SILENT_MAX, Patience

OWN, LIVELY, DEAD = (Address(bytes([i]) * 20) for i in (1, 2, 3))
BLOCK = BlockId(Hash(bytes(32)), 1, Hash(bytes(32)))
PROPOSE_MS = 3_000


def make_vote(author: Address, height: int) -> Vote:
    return Vote(VoteType.PREVOTE, Height(height), Round(0), None, author, Signature(bytes(64)))


def make_proposal(author: Address, height: int, round_: int = 0) -> Proposal:
    return Proposal(Height(height), Round(round_), -1, BLOCK, 1, author, Signature(bytes(64)))


@dataclass
class World:
    """A node's clock, and which messages are genuine."""

    now_s: float = 100.0
    forged: list[Vote | Proposal] = field(default_factory=list)
    checked: list[Vote | Proposal] = field(default_factory=list)
    height: int = 0

    def __post_init__(self) -> None:
        self.patience = Patience(OWN, self._is_genuine, lambda: self.now_s)

    def _is_genuine(self, message: Vote | Proposal) -> bool:
        self.checked.append(message)
        return message not in self.forged

    def begin(self, proposer: Address, kind: TimeoutKind = TimeoutKind.PROPOSE) -> ScheduleTimeout:
        """Begin round 0 of the next height; return the timeout that the node keeps."""
        self.height += 1
        return self.shorten(proposer, kind)

    def shorten(
        self, proposer: Address | None, kind: TimeoutKind = TimeoutKind.PROPOSE, round_: int = 0
    ) -> ScheduleTimeout:
        return self.patience.shorten(
            ScheduleTimeout(kind, self.height, round_, PROPOSE_MS), proposer
        )

    def live_through(self, delay_s: float = 0.01) -> None:
        """A height whose proposal comes after a while."""
        self.begin(LIVELY)
        self.now_s += delay_s
        self.patience.notice(ProposalReceived(make_proposal(LIVELY, self.height), 0), True)

    def miss(self, proposer: Address = DEAD) -> int:
        """A height whose proposer says nothing; return how long it was waited for, in ms."""
        timeout = self.begin(proposer)
        self.now_s += timeout.duration_ms / 1000
        self.patience.note_elapsed(timeout)
        return timeout.duration_ms


@pytest.fixture
def world() -> World:
    world = World()
    world.live_through()
    return world


def test_each_missed_turn_quarters_the_wait_down_to_the_floor(world: World) -> None:
    floor_ms = FLOOR_MS_MIN + FLOOR_DELAYS * 10
    assert [world.miss() for _ in range(6)] == [3000, 750, 187, 46, floor_ms, floor_ms]
    assert world.patience.silent == (DEAD,)
    # And never longer than what was asked for, nor for anybody else.
    assert world.begin(LIVELY).duration_ms == PROPOSE_MS
    short = ScheduleTimeout(TimeoutKind.PROPOSE, world.height, 0, 7)
    assert world.patience.shorten(short, DEAD) == short


def test_turns_missed_for_ever_stay_at_the_floor(world: World) -> None:
    waits = [world.miss() for _ in range(40)]
    assert waits[-1] == FLOOR_MS_MIN + FLOOR_DELAYS * 10


def test_the_floor_lies_above_the_slowest_proposal_of_late(world: World) -> None:
    world.live_through(0.2)
    assert world.patience.floor_ms == FLOOR_MS_MIN + FLOOR_DELAYS * 200
    world.live_through(0.001)
    slowly_lower = world.patience.floor_ms
    assert slowly_lower is not None
    assert FLOOR_DELAYS * 150 < slowly_lower < FLOOR_MS_MIN + FLOOR_DELAYS * 200
    for _ in range(100):
        world.live_through(0.001)
    assert world.patience.floor_ms == FLOOR_MS_MIN + FLOOR_DELAYS


def test_without_a_measured_delay_nothing_is_shortened() -> None:
    world = World()
    assert [world.miss() for _ in range(3)] == [PROPOSE_MS] * 3


def test_only_proposals_of_the_turn_are_measured(world: World) -> None:
    floor_ms = world.patience.floor_ms
    world.begin(LIVELY)
    world.now_s += 5
    for message in (
        make_proposal(DEAD, world.height),
        make_proposal(LIVELY, world.height, round_=1),
        make_proposal(LIVELY, world.height + 1),
    ):
        world.patience.notice(ProposalReceived(message, 0), True)
    world.patience.notice(VoteReceived(make_vote(LIVELY, world.height)), True)
    assert world.patience.floor_ms == floor_ms
    world.patience.notice(ProposalReceived(make_proposal(LIVELY, world.height), 0), False)
    assert world.patience.floor_ms == floor_ms


@pytest.mark.parametrize("outcome", [True, None])
@pytest.mark.parametrize("is_vote", [True, False])
def test_the_first_genuine_message_restores_the_wait(
    world: World, outcome: bool | None, is_vote: bool
) -> None:
    for _ in range(5):
        world.miss()
    if is_vote:
        world.patience.notice(VoteReceived(make_vote(DEAD, world.height)), outcome)
    else:
        late = ProposalReceived(make_proposal(DEAD, world.height), 0)
        world.patience.notice(late, outcome)
    assert world.patience.silent == ()
    assert world.begin(DEAD).duration_ms == PROPOSE_MS
    # The driver's own check is not repeated.
    assert len(world.checked) == (1 if outcome is None else 0)


def test_forged_messages_restore_nothing(world: World) -> None:
    for _ in range(5):
        world.miss()
    vote = make_vote(DEAD, world.height)
    world.patience.notice(VoteReceived(vote), False)
    world.forged.append(vote)
    world.patience.notice(VoteReceived(vote), None)
    assert world.patience.silent == (DEAD,)


def test_old_messages_repeated_restore_nothing_and_cost_no_check(world: World) -> None:
    world.miss()
    first_missed = world.height
    world.miss()
    for outcome in (True, None):
        old = VoteReceived(make_vote(DEAD, first_missed - 1))
        world.patience.notice(old, outcome)
    assert world.patience.silent == (DEAD,)
    assert world.checked == []
    world.patience.notice(VoteReceived(make_vote(DEAD, first_missed)), None)
    assert world.patience.silent == ()


def test_who_votes_in_its_own_turn_has_not_missed_it(world: World) -> None:
    """A proposer that withholds its proposal is not silent, and neither is a slow one."""
    timeout = world.begin(LIVELY)
    world.patience.notice(VoteReceived(make_vote(LIVELY, world.height)), True)
    world.patience.note_elapsed(timeout)
    assert world.patience.silent == ()


def test_messages_of_before_the_turn_do_not_count_for_it(world: World) -> None:
    timeout = world.begin(DEAD)
    world.patience.notice(VoteReceived(make_vote(DEAD, world.height - 1)), True)
    world.patience.notice(VoteReceived(make_vote(LIVELY, world.height)), True)
    world.patience.note_elapsed(timeout)
    assert world.patience.silent == (DEAD,)


def test_the_wait_for_precommits_shrinks_likewise_and_that_for_prevotes_does_not(
    world: World,
) -> None:
    world.miss()
    world.miss()
    assert world.shorten(DEAD, TimeoutKind.PRECOMMIT).duration_ms == 187
    assert world.shorten(DEAD, TimeoutKind.PREVOTE).duration_ms == PROPOSE_MS


def test_later_rounds_are_left_alone(world: World) -> None:
    for _ in range(3):
        world.miss()
    for kind in TimeoutKind:
        assert world.shorten(DEAD, kind, round_=1).duration_ms == PROPOSE_MS
    # Nor do they count as missed: whoever proposes there may have had no time.
    timeout = world.begin(LIVELY)
    world.patience.note_elapsed(replace(timeout, round=1))
    world.patience.note_elapsed(replace(timeout, kind=TimeoutKind.PRECOMMIT))
    world.patience.note_elapsed(replace(timeout, height=timeout.height - 1))
    assert world.patience.silent == (DEAD,)


def test_own_turns_are_never_shortened(world: World) -> None:
    assert [world.miss(OWN) for _ in range(4)] == [PROPOSE_MS] * 4
    assert world.patience.silent == ()
    assert world.shorten(None).duration_ms == PROPOSE_MS


def test_silent_validators_are_bounded(world: World) -> None:
    authors = [Address(i.to_bytes(20, "big")) for i in range(SILENT_MAX + 3)]
    for author in authors:
        world.miss(author)
    assert world.patience.silent == tuple(authors[3:])
