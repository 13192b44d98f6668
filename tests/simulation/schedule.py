"""What a schedule is: it watches the consensus messages of one height and holds some back.

Owns the course of a schedule and what it knows of the height. Never changes a message other than
by leaving votes out, and leaves it to repair that what was held back arrives in the end. The
schedules themselves are in `schedules`.
"""

# A schedule that looks at one thing is told all the same.
# ruff: noqa: ARG002

import random
from typing import TYPE_CHECKING

import trio
from quorate.chain.errors import DecodeError
from quorate.chain.ids import Hash
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import Vote, VoteType

from consensus.rotation import Rotation
from node.exchange.messages import (
    Message,
    PartMessage,
    ProposalMessage,
    VotesMessage,
    decode_message,
    encode_message,
)
from p2p.network import PeerId

if TYPE_CHECKING:
    from tests.simulation.world import World

LOOK_S = 0.01
"""Virtual seconds between two looks at how far the height has come."""
WAIT_S_MAX = 3.0
"""For so long a schedule looks for a height in which the right ones propose."""
HOLD_S_MAX = 12.0
"""No schedule lasts longer, whatever has come of it."""


class Schedule:
    """Holds back consensus messages of one height, and knows which validator is which.

    Parameters
    ----------
    world : World
        The run.
    source : random.Random
        For what the plan leaves open.
    height : int
        The first height that may be taken.
    """

    def __init__(self, world: "World", source: random.Random, height: int) -> None:
        self.world = world
        self.random = source
        self.height = height
        self.is_over = False
        self.numbers = {machine.peer_id: machine.number for machine in world.machines}
        self.by_address = {machine.key.address: machine.number for machine in world.machines}
        self.validators: ValidatorSet | None = None
        self.roots: dict[int, Hash] = {}
        """The parts root of what each round proposed."""
        self.precommitted: dict[tuple[int, int], None] = {}
        """Who has sent a precommit for a block, as (round, number)."""
        self.proposed: dict[int, None] = {}
        """The rounds that were proposed in."""
        self._last: tuple[bytes, Message | None] = (b"", None)

    # What a schedule decides.

    def cast(self) -> bool:
        """Choose who plays what in the height; False leaves it alone."""
        return True

    def hides_vote(self, receiver: int, vote: Vote, number: int) -> bool:
        """Tell whether a vote of validator `number` is held back from a node."""
        return False

    def hides_proposal(self, receiver: int, round_: int) -> bool:
        """Tell whether a round's proposal is held back from a node."""
        return False

    def hides_parts(self, receiver: int, parts_root: Hash) -> bool:
        """Tell whether the parts of a block are held back from a node."""
        return False

    def blocks(self, sender: int, receiver: int) -> bool:
        """Tell whether nothing at all passes."""
        return False

    async def play(self) -> None:
        """Do what is to be done while messages are held back, and return when that is over."""
        await trio.sleep(HOLD_S_MAX)

    # The course of it.

    async def run(self) -> None:
        """Wait for the height, hold back, let go."""
        with trio.move_on_after(WAIT_S_MAX):
            while not self._has_begun():  # noqa: ASYNC110 - nobody announces it.
                await trio.sleep(LOOK_S)
        if self.validators is not None:
            with trio.move_on_after(HOLD_S_MAX + self.world.plan.outage_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, nursery.cancel_scope)
                    await self.play()
                    nursery.cancel_scope.cancel()
        self.is_over = True

    async def _watch(self, scope: trio.CancelScope) -> None:
        """End it when everybody has decided: it came to nothing."""
        machines = self.world.machines
        while any(machine.height < self.height for machine in machines):  # noqa: ASYNC110
            await trio.sleep(LOOK_S)
        scope.cancel()

    def _has_begun(self) -> bool:
        """Take the next height as soon as it can be told who proposes in it."""
        for machine in self.world.machines:
            node = machine.node
            if node is None or node.services.executor.position.height + 1 < self.height:
                continue
            position = node.services.executor.position
            self.height = position.height + 1
            self.validators = position.validators
            if self.cast():
                return True
            # Whoever proposes next may suit better.
            self.validators = None
            self.height += 1
            return False
        return False

    async def cut_power(self) -> None:
        """Let the power fail everywhere, hold nothing back any more, and let it come back."""
        for machine in self.world.machines:
            await self.world.crash(machine, has_power_failed=True)
        self.is_over = True
        await trio.sleep(self.world.plan.outage_s)
        for machine in self.world.machines:
            if not machine.is_up:
                await self.world.start(machine)

    def get_proposer(self, round_: int) -> int:
        """Return who proposes in a round of the height."""
        validators = self.validators
        if validators is None:
            raise RuntimeError("the height has not begun")
        address = Rotation(validators).get_proposer(round_)
        return self.by_address[address] if address is not None else -1

    def get_power(self, number: int) -> int:
        """Return the voting power of a node."""
        return self.world.plan.powers[number]

    def is_quorum(self, numbers: list[int]) -> bool:
        """Tell whether these nodes are more than two thirds of the power."""
        return 3 * sum(map(self.get_power, numbers)) > 2 * sum(self.world.plan.powers)

    def has_decided(self, number: int) -> bool:
        """Tell whether a node has stored the height."""
        return self.world.machines[number].height >= self.height

    @property
    def voters(self) -> list[int]:
        """Every node with voting power."""
        return [number for number, power in enumerate(self.world.plan.powers) if power]

    # What the fabric asks.

    def passes(self, sender: PeerId, receiver: PeerId) -> bool:
        """Tell whether anything may pass."""
        if self.is_over or self.validators is None:
            return True
        return not self.blocks(self.numbers.get(sender, -1), self.numbers.get(receiver, -1))

    def edit(self, sender: PeerId, receiver: PeerId, body: bytes) -> bytes | None:
        """Return what is to pass of a consensus message."""
        if self.is_over or self.validators is None:
            return body
        message = self._decode(body)
        to = self.numbers.get(receiver, -1)
        match message:
            case ProposalMessage(proposal) if proposal.height == self.height:
                self.roots.setdefault(proposal.round, proposal.block_id.parts_root)
                self.proposed[proposal.round] = None
                return None if self.hides_proposal(to, proposal.round) else body
            case PartMessage() if message.height == self.height:
                return None if self.hides_parts(to, message.parts_root) else body
            case VotesMessage(votes):
                self._note_precommits(self.numbers.get(sender, -1), votes)
                kept = tuple(vote for vote in votes if not self._hides(to, vote))
                if len(kept) == len(votes):
                    return body
                return encode_message(VotesMessage(kept)) if kept else None
        return body

    def _hides(self, receiver: int, vote: Vote) -> bool:
        number = self.by_address.get(vote.validator)
        if vote.height != self.height or number is None or number == receiver:
            return False
        return self.hides_vote(receiver, vote, number)

    def _note_precommits(self, sender: int, votes: tuple[Vote, ...]) -> None:
        for vote in votes:
            if (
                vote.height == self.height
                and vote.type is VoteType.PRECOMMIT
                and vote.block_id is not None
                and self.by_address.get(vote.validator) == sender
            ):
                self.precommitted[vote.round, sender] = None

    def _decode(self, body: bytes) -> Message | None:
        # What is sent to all comes here once for each of them.
        if self._last[0] is not body:
            try:
                self._last = body, decode_message(body)
            except DecodeError:
                self._last = body, None
        return self._last[1]


def is_precommit(vote: Vote) -> bool:
    """Tell whether a vote is a precommit for a block."""
    return vote.type is VoteType.PRECOMMIT and vote.block_id is not None
