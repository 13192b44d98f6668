"""Schedules built to be nasty: messages held back by what they are, faults timed by what was said.

Owns the schedules that ordinary bad luck hardly ever makes: a decision that only one node knows
of, a polka that shows late, a height that everybody precommits and nobody stores. Never touches a
message itself (`schedule` does).
"""

# A schedule that looks at one thing is told all the same.
# ruff: noqa: ARG002

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from quorate.chain.ids import Hash
from quorate.chain.vote import Vote, VoteType

from tests.simulation.schedule import LOOK_S, Schedule, is_precommit

if TYPE_CHECKING:
    from tests.simulation.world import World


class HiddenDecision(Schedule):
    """One node (or so many that a quorum is left without them) alone sees a block decided.

    Everybody else but one is locked on the block; that one has seen nothing of it, and its turn
    to propose comes. Whoever is not bound by a lock decides another block.
    """

    lucky: list[int]
    late: int
    turn: int
    shown: list[int]
    muted: frozenset[int]

    def cast(self) -> bool:
        """Find the round in which the late one proposes, and who is lucky."""
        first = self.get_proposer(0)
        self.turn = self.random.randint(1, 4)
        self.late = self.get_proposer(self.turn)
        if self.late == first:
            return False
        others = [number for number in self.voters if number != self.late]
        self.random.shuffle(others)
        if not self.is_quorum(others):
            return False
        self.lucky = []
        while self.is_quorum([number for number in others if number not in self.lucky]):
            self.lucky.append(others[len(self.lucky)])
        rest = [number for number in others if number not in self.lucky]
        self.shown = []
        for number in others:
            if not self.is_quorum([*self.shown, number]):
                self.shown.append(number)
        # Rounds before the turn in which nobody hears the proposal: nil polkas.
        self.muted = frozenset(
            round_
            for round_ in range(1, self.turn)
            if self.get_proposer(round_) == self.late or self.random.random() < 0.7
        )
        return self.is_quorum([*rest, self.late]) and self.is_quorum([*self.shown, self.late])

    def hides_vote(self, receiver: int, vote: Vote, number: int) -> bool:
        """Hide the polka from the late one, and the quorum of precommits from all but the lucky."""
        if vote.round or receiver in self.lucky:
            return False
        if vote.type is VoteType.PREVOTE:
            return receiver == self.late and number not in self.shown
        return is_precommit(vote) and number in self.lucky

    def hides_proposal(self, receiver: int, round_: int) -> bool:
        """Hide the block from the late one, and some rounds from all."""
        return (round_ == 0 and receiver == self.late) or round_ in self.muted

    def hides_parts(self, receiver: int, parts_root: Hash) -> bool:
        """Hide the block from the late one."""
        return receiver == self.late and parts_root == self.roots.get(0)

    def blocks(self, sender: int, receiver: int) -> bool:
        """Whoever knows of the decision cannot tell."""
        if sender not in self.lucky or receiver in self.lucky:
            return False
        return self.has_decided(sender)

    async def play(self) -> None:
        """Go on until the late one's turn has had its time."""
        while self.turn not in self.proposed:  # noqa: ASYNC110 - nobody announces it.
            await trio.sleep(LOOK_S)
        await trio.sleep(1.5 + 0.4 * self.turn)


class OlderPolka(Schedule):
    """A polka of round 0 shows to one alone, who proposes its block again after a later lock.

    In round 1 the others lock another block, and one of them alone sees it decided. Whoever does
    not compare the round of the shown polka with that of the own lock decides the older block.
    """

    late: int
    deaf: int
    lucky: int
    witness: int
    turn: int

    def cast(self) -> bool:
        """Four equal validators, and a turn of the late one after round 1."""
        if len(self.voters) != 4 or len(set(map(self.get_power, self.voters))) != 1:
            return False
        first, second = self.get_proposer(0), self.get_proposer(1)
        for self.turn in range(2, 6):
            self.late = self.get_proposer(self.turn)
            if self.late != second:
                break
        else:
            return False
        others = [number for number in self.voters if number != self.late]
        self.random.shuffle(others)
        self.deaf = next((number for number in others if number != first), -1)
        rest = [number for number in others if number != self.deaf]
        self.lucky, self.witness = self.random.sample(rest, 2)
        return True

    def hides_vote(self, receiver: int, vote: Vote, number: int) -> bool:
        """Show round 0's polka to the late one alone, and round 1's decision to the lucky one."""
        if vote.round == 0 and vote.type is VoteType.PREVOTE:
            return number == self.late and max(self.proposed, default=0) < self.turn
        if vote.round == 0:
            return is_precommit(vote)
        if vote.round != 1 or receiver == self.lucky:
            return False
        if vote.type is VoteType.PREVOTE:
            return receiver == self.late and number == self.witness
        return is_precommit(vote) and number == self.lucky

    def hides_proposal(self, receiver: int, round_: int) -> bool:
        """Hide the first block from the deaf one."""
        return round_ == 0 and receiver == self.deaf

    def hides_parts(self, receiver: int, parts_root: Hash) -> bool:
        """Hide the first block from the deaf one, until it is proposed again."""
        is_first = parts_root == self.roots.get(0)
        return is_first and receiver == self.deaf and self.turn not in self.proposed

    def blocks(self, sender: int, receiver: int) -> bool:
        """Whoever knows of the decision cannot tell."""
        return sender == self.lucky and self.has_decided(sender)

    async def play(self) -> None:
        """Go on until the late one's turn has had its time."""
        while self.turn not in self.proposed:  # noqa: ASYNC110 - nobody announces it.
            await trio.sleep(LOOK_S)
        await trio.sleep(1.5 + 0.4 * self.turn)


class HalfLocked(Schedule):
    """Some are locked, enough that nothing else can be decided, too few to decide it alone.

    Then the power fails everywhere, and what they are locked on is old when it is proposed again.
    """

    deaf: int
    locked: list[int]
    shown: list[int]

    def cast(self) -> bool:
        """Choose who hears of the block, who sees its polka, and which votes the others see."""
        first = self.get_proposer(0)
        self.deaf = self.random.choice([number for number in self.voters if number != first])
        others = [number for number in self.voters if number != self.deaf]
        self.random.shuffle(others)
        self.locked = []
        while not self.is_blocking(self.locked):
            self.locked.append(others[len(self.locked)])
        # Whoever is not locked sees its own vote at least.
        self.shown = [number for number in others if number not in self.locked]
        for number in self.locked:
            if not self.is_quorum([*self.shown, number]):
                self.shown.append(number)
        return (
            self.is_quorum(others)
            and not self.is_quorum(self.locked)
            and not self.is_quorum(self.shown)
            and self.is_quorum([*self.shown, self.deaf])
        )

    def is_blocking(self, numbers: list[int]) -> bool:
        """Tell whether nothing can be decided without one of these nodes."""
        return not self.is_quorum([number for number in self.voters if number not in numbers])

    def hides_vote(self, receiver: int, vote: Vote, number: int) -> bool:
        """Hide the polka from all but some."""
        if vote.round or vote.type is not VoteType.PREVOTE or receiver in self.locked:
            return False
        return number not in self.shown and number != self.deaf

    def hides_proposal(self, receiver: int, round_: int) -> bool:
        """Hide the block from the deaf one."""
        return round_ == 0 and receiver == self.deaf

    async def play(self) -> None:
        """Cut the power when round 0 is over, for a short or a long while."""
        count = len(self.locked)
        while 1 not in self.proposed and len(self.precommitted) < count:  # noqa: ASYNC110
            await trio.sleep(LOOK_S)
        await trio.sleep(self.random.uniform(0.5, 1.0))
        await self.cut_power()


class PowerCut(Schedule):
    """Everybody precommits a block, nobody sees a quorum of it, and the power fails everywhere."""

    def hides_vote(self, receiver: int, vote: Vote, number: int) -> bool:
        """Let nobody see it decided."""
        return is_precommit(vote)

    async def play(self) -> None:
        """Cut the power when all that are up have precommitted, for a short or a long while."""
        while not self._has_quorum():  # noqa: ASYNC110 - nobody announces it.
            await trio.sleep(LOOK_S / 10)
        if self.random.random() < 0.5:
            await trio.sleep(self.random.random() * 0.2)
        await self.cut_power()

    def _has_quorum(self) -> bool:
        rounds: dict[int, list[int]] = {}
        for round_, number in self.precommitted:
            rounds.setdefault(round_, []).append(number)
        up = [number for number in self.voters if self.world.machines[number].is_up]
        return any(len(numbers) >= len(up) for numbers in rounds.values()) and self.is_quorum(up)


class DeadCreator(Schedule):
    """Everybody but one is locked on a block whose creator is never heard of again.

    The one that lacks the block is needed for every quorum from then on, and reaches the others
    only through nodes that have the block already.
    """

    deaf: int
    creator: int

    def cast(self) -> bool:
        """Wait for a height that the byzantine validator opens."""
        self.creator = self.get_proposer(0)
        if self.creator not in self.world.plan.byzantine:
            return False
        self.deaf = self.world.plan.remote if self.world.plan.remote is not None else -1
        others = [number for number in self.voters if number != self.creator]
        if self.deaf < 0:
            self.deaf = self.random.choice(others)
        locked = [number for number in self.voters if number != self.deaf]
        return self.is_quorum(locked) and self.is_quorum(others)

    def hides_vote(self, receiver: int, vote: Vote, number: int) -> bool:
        """Let nobody see it decided."""
        return is_precommit(vote) and vote.round == 0

    def hides_parts(self, receiver: int, parts_root: Hash) -> bool:
        """Hide the block from the deaf one."""
        return receiver == self.deaf and parts_root == self.roots.get(0)

    async def play(self) -> None:
        """Silence the creator when all others are locked."""
        locked = [number for number in self.voters if number != self.deaf]
        while not all((0, number) in self.precommitted for number in locked):  # noqa: ASYNC110
            await trio.sleep(LOOK_S)
        self.world.fabric.muted.add(self.world.machines[self.creator].peer_id)
        await trio.sleep(self.random.uniform(1.0, 4.0))


class ByRounds(Schedule):
    """In the first rounds of some heights, each kind of message reaches each node or does not."""

    rounds = 3

    def __init__(self, world: "World", source: random.Random, height: int) -> None:
        super().__init__(world, source, height)
        self._share = source.choice((0.2, 0.4, 0.6))
        self._drawn: dict[object, bool] = {}

    def _draws(self, *what: object) -> bool:
        drawn = self._drawn.get(what)
        if drawn is None:
            drawn = self._drawn[what] = self.random.random() < self._share
        return drawn

    def hides_vote(self, receiver: int, vote: Vote, number: int) -> bool:
        """Draw for each voter and receiver."""
        return vote.round < self.rounds and self._draws(receiver, vote.type, vote.round, number)

    def hides_proposal(self, receiver: int, round_: int) -> bool:
        """Draw for each receiver."""
        return round_ < self.rounds and self._draws(receiver, "proposal", round_)

    def hides_parts(self, receiver: int, parts_root: Hash) -> bool:
        """Draw for each receiver."""
        return self._draws(receiver, "parts", parts_root)

    async def play(self) -> None:
        """Go on until the rounds are over."""
        while max(self.proposed, default=0) < self.rounds:  # noqa: ASYNC110
            await trio.sleep(LOOK_S)


@dataclass(eq=False)
class Blow:
    """What happens at a step of consensus."""

    kind: str
    victims: list[int] = field(default_factory=list)


class AtStep(Schedule):
    """At a chosen vote of a height, somebody's power fails, or the network falls apart."""

    def __init__(self, world: "World", source: random.Random, height: int) -> None:
        super().__init__(world, source, height)
        self._type = source.choice((VoteType.PREVOTE, VoteType.PRECOMMIT))
        self._count = source.randint(1, len(self.voters))
        self._seen: dict[int, None] = {}
        self._struck = trio.Event()
        self._blow = Blow(source.choice(("power", "crash", "half", "voter")))

    def hides_vote(self, receiver: int, vote: Vote, number: int) -> bool:
        """Count votes; what comes after the chosen one may find the network cut."""
        if vote.type is self._type and not self._struck.is_set():
            self._seen[number] = None
            if len(self._seen) >= self._count:
                self._strike(number)
        return False

    def _strike(self, number: int) -> None:
        everybody = [machine.number for machine in self.world.machines]
        if self._blow.kind in {"half", "crash"}:
            self._blow.victims = self.random.sample(everybody, len(everybody) // 2)
        else:
            self._blow.victims = [number]
        self._struck.set()

    def blocks(self, sender: int, receiver: int) -> bool:
        """Cut the half, or the voter, off."""
        if not self._struck.is_set() or self._blow.kind not in {"half", "voter"}:
            return False
        return (sender in self._blow.victims) != (receiver in self._blow.victims)

    async def play(self) -> None:
        """Wait for the vote, strike, and mend it after a while."""
        await self._struck.wait()
        machines = [self.world.machines[number] for number in self._blow.victims]
        is_power = self._blow.kind == "power"
        if self._blow.kind in {"power", "crash"}:
            for machine in machines:
                await self.world.crash(machine, has_power_failed=is_power)
        await trio.sleep(self.random.uniform(0.1, 2.0))
        for machine in machines:
            if not machine.is_up:
                await self.world.start(machine)


SCHEDULES: dict[str, type[Schedule]] = {
    schedule.__name__: schedule
    for schedule in (
        HiddenDecision,
        OlderPolka,
        HalfLocked,
        PowerCut,
        DeadCreator,
        ByRounds,
        AtStep,
    )
}
