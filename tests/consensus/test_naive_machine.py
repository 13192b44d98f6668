"""The driver against a second version of Algorithm 1, too plain to be fast or wrong.

It keeps every message in a list and evaluates each clause, as the paper writes it, by searching
through the list. Nobody votes twice here, and nothing exceeds a bound.
"""

from dataclasses import dataclass, field
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.effects import (
    Broadcast,
    Decide,
    Effect,
    RequestProposal,
    ScheduleTimeout,
    UnsignedProposal,
    UnsignedVote,
)
from consensus.inputs import TimeoutKind
from tests.consensus.scenario import Scenario

Line = tuple[object, ...]
STEPS = ("propose", "prevote", "precommit", "decided")


@dataclass
class NaiveMachine:
    """Algorithm 1 with lists. Values are names; None is nil."""

    me: str
    powers: dict[str, int]
    proposers: list[str]
    messages: list[Line] = field(default_factory=list)
    verdicts: dict[str, bool] = field(default_factory=dict)
    out: list[Line] = field(default_factory=list)
    done: list[Line] = field(default_factory=list)
    round: int = 0
    step: str = "propose"
    locked: tuple[str | None, int] = (None, -1)
    valid: tuple[str | None, int] = (None, -1)

    def power(self, names: set[str]) -> Fraction:
        return Fraction(sum(self.powers[n] for n in names), sum(self.powers.values()))

    def voters(self, kind: str, round_: int, *values: str | None) -> set[str]:
        """Return who has sent such a vote, for one of the values or for whatever."""
        return {
            str(m[1])
            for m in self.messages
            if m[0] == kind and m[2] == round_ and (not values or m[3] in values)
        }

    def has_quorum(self, kind: str, round_: int, *values: str | None) -> bool:
        return self.power(self.voters(kind, round_, *values)) > Fraction(2, 3)

    def proposal(self) -> Line | None:
        for m in self.messages:
            if m[0] == "proposal" and m[2] == self.round:
                return m
        return None

    def once(self, *what: object) -> bool:
        if what in self.done:
            return False
        self.done.append(what)
        return True

    def start_round(self, round_: int) -> None:
        self.round, self.step = round_, "propose"
        self.out.append(("timeout", "propose", round_))
        if self.proposers[round_ % len(self.proposers)] == self.me:
            value, valid_round = self.valid
            self.out.append(
                ("request", round_) if value is None else ("proposal", round_, valid_round, value)
            )

    def vote(self, kind: str, value: str | None) -> bool:
        self.out.append((kind, self.round, value))
        self.step = kind
        return True

    def fire(self) -> bool:
        """Fire the first clause that applies; the order is the driver's."""
        return self.step != "decided" and (
            self.fire_between_rounds() or self.fire_on_proposal() or self.fire_on_votes()
        )

    def get_names(self) -> list[str]:
        """Return the blocks that anybody has voted for."""
        voted = [m[3] for m in self.messages if m[0] != "proposal"]
        return sorted({str(value) for value in voted if value is not None})

    def fire_between_rounds(self) -> bool:
        rounds = sorted({int(str(m[2])) for m in self.messages})
        for r in rounds:  # L49
            for v in self.get_names():
                if self.has_quorum("precommit", r, v) and self.verdicts.get(v):
                    self.out.append(("decide", v))
                    self.step = "decided"
                    return True
        for r in reversed(rounds):  # L55
            senders = {str(m[1]) for m in self.messages if m[2] == r}
            if r > self.round and self.power(senders) > Fraction(1, 3):
                self.start_round(r)
                return True
        return False

    def fire_on_proposal(self) -> bool:
        proposal = self.proposal()
        if proposal is None or self.step != "propose":
            return False
        value, valid_round = str(proposal[3]), int(str(proposal[4]))
        same = self.locked[0] == value
        if valid_round == -1:  # L22
            free = self.locked[1] == -1 or same
        elif self.has_quorum("prevote", valid_round, value):  # L28
            free = self.locked[1] <= valid_round or same
        else:
            return False
        if not free:
            return self.vote("prevote", None)
        if value not in self.verdicts:
            return False
        return self.vote("prevote", value if self.verdicts[value] else None)

    def fire_on_votes(self) -> bool:
        for v in self.get_names() if self.step != "propose" else []:  # L36
            polka = self.has_quorum("prevote", self.round, v) and self.verdicts.get(v)
            if polka and self.once(36, self.round):
                if self.step == "prevote":
                    self.locked = (v, self.round)
                    self.vote("precommit", v)
                self.valid = (v, self.round)
                return True
        if self.step == "prevote" and self.has_quorum("prevote", self.round, None):  # L44
            return self.vote("precommit", None)
        any_prevotes = self.step == "prevote" and self.has_quorum("prevote", self.round)
        if any_prevotes and self.once(34, self.round):
            self.out.append(("timeout", "prevote", self.round))
            return True
        if self.has_quorum("precommit", self.round) and self.once(47, self.round):
            self.out.append(("timeout", "precommit", self.round))
            return True
        return False

    def elapse(self, kind: str, round_: int) -> None:
        if round_ != self.round or self.step == "decided":
            return
        if kind == self.step and kind in ("propose", "prevote"):
            self.vote(STEPS[STEPS.index(kind) + 1], None)
        elif kind == "precommit":
            self.start_round(self.round + 1)

    def settle(self) -> list[Line]:
        while self.fire():
            pass
        out, self.out = self.out, []
        return out


def describe(scenario: Scenario, effects: list[Effect]) -> list[Line]:
    """Return the driver's effects in the words of the naive machine."""
    lines: list[Line] = []
    for effect in effects:
        match effect:
            case Broadcast(content=UnsignedVote() as vote):
                value = None if vote.block_id is None else scenario.blocks[vote.block_id]
                lines.append((vote.type.name.lower(), vote.round, value))
            case Broadcast(content=UnsignedProposal() as proposal):
                name = scenario.blocks[proposal.block_id]
                lines.append(("proposal", proposal.round, proposal.valid_round, name))
            case ScheduleTimeout():
                lines.append(("timeout", effect.kind.name.lower(), effect.round))
            case RequestProposal():
                lines.append(("request", effect.round))
            case Decide():
                name = scenario.blocks[effect.commit.block_id]
                lines.append(("decide", name))
    return lines


NAMES = "ABCD"
# Mostly one value and early rounds: otherwise nothing ever has a quorum.
VALUES = st.sampled_from(("X", "X", "X", "Y", None))
ROUNDS = st.sampled_from((0, 0, 0, 1, 1, 2))
ACTIONS = st.one_of(
    st.tuples(st.sampled_from(("prevote", "precommit")), st.sampled_from(NAMES), ROUNDS, VALUES),
    st.tuples(st.just("proposal"), ROUNDS, st.sampled_from("XXY"), st.integers(-1, 1)),
    st.tuples(st.just("verdict"), st.sampled_from("XY"), st.sampled_from((True, True, False))),
    st.tuples(st.just("timeout"), st.sampled_from(STEPS[:3]), ROUNDS),
)


@settings(max_examples=400, deadline=None)
@given(
    powers=st.tuples(*[st.integers(1, 4)] * 4),
    me=st.sampled_from(NAMES),
    actions=st.lists(ACTIONS, max_size=40),
)
def test_the_driver_does_what_the_paper_says(
    powers: tuple[int, ...], me: str, actions: list[tuple[object, ...]]
) -> None:
    scenario = Scenario(me, powers=powers)
    naive = NaiveMachine(
        me,
        {name: scenario.power_of(name) for name in NAMES},
        scenario.proposers,
    )
    naive.start_round(0)
    assert describe(scenario, scenario.start()) == naive.settle()
    for action in actions:
        for step in split(action):
            effects = play(scenario, naive, step)
            assert describe(scenario, effects) == naive.settle()
            if naive.step == "decided":
                return
            check_state(scenario, naive)


def split(action: Line) -> list[Line]:
    """Return one action for each voter."""
    kind, who, *rest = action
    if kind in ("prevote", "precommit"):
        return [(kind, name, *rest) for name in str(who)]
    return [action]


def check_state(scenario: Scenario, naive: NaiveMachine) -> None:
    machine = scenario.driver._machine
    assert machine is not None
    assert (machine.round, machine.step.name.lower()) == (naive.round, naive.step)
    for block_id, round_, expected in (
        (machine.locked_block, machine.locked_round, naive.locked),
        (machine.valid_block, machine.valid_round, naive.valid),
    ):
        assert (block_id and scenario.blocks[block_id], round_) == expected


def play(scenario: Scenario, naive: NaiveMachine, action: Line) -> list[Effect]:
    """Let both machines take an action, unless it is one that honest nodes exclude."""
    match action:
        case ("prevote" | "precommit" as kind, str(name), int(round_), value):
            if any(m[:3] == (kind, name, round_) for m in naive.messages):
                return []
            # While two thirds are honest, no two blocks are decided, and no invalid one.
            is_refused = value == "Y" or naive.verdicts.get(str(value), True) is False
            if kind == "precommit" and is_refused:
                return []
            naive.messages.append((kind, name, round_, value))
            vote = scenario.prevote if kind == "prevote" else scenario.precommit
            return vote(name, None if value is None else str(value), round_)
        case ("proposal", int(round_), str(block), int(valid_round)):
            if (
                valid_round >= round_
                or round_ < naive.round
                or any(m[0] == "proposal" and m[2] == round_ for m in naive.messages)
            ):
                return []
            proposer = scenario.proposer_of(round_)
            naive.messages.append(("proposal", proposer, round_, block, valid_round))
            return scenario.propose(block, round_, valid_round)
        case ("verdict", str(block), bool(is_valid)):
            precommitted = any(m[0] == "precommit" and m[3] == block for m in naive.messages)
            verdict = is_valid or precommitted
            naive.verdicts.setdefault(block, verdict)
            return scenario.judge(block, is_valid=verdict)
        case ("timeout", str(kind), int(round_)):
            naive.elapse(kind, round_)
            return scenario.timeout(TimeoutKind[kind.upper()], round_)
        case _:
            raise AssertionError(action)
