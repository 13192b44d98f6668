"""A small network of drivers on a virtual clock: one seed, one run.

Messages are delayed, dropped, altered and relayed by rules that a test gives. There is nothing
below the drivers: blocks are names, and every block can be had by everybody.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import heappop, heappush

from quorate.chain.codec import encode
from quorate.chain.evidence import DuplicateVoteEvidence
from quorate.chain.ids import Hash, Height, Round
from quorate.chain.keys import PrivateKey
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import BlockId, Commit, Proposal, Vote

from consensus.driver import Driver
from consensus.effects import (
    Broadcast,
    Decide,
    Effect,
    JudgeProposal,
    Relay,
    ReportEvidence,
    RequestProposal,
    ScheduleTimeout,
    UnsignedVote,
)
from consensus.inputs import (
    CommitReceived,
    Input,
    ProposalJudged,
    ProposalReceived,
    ProposeBlock,
    StartHeight,
    TimeoutElapsed,
    VoteReceived,
    encode_input,
)
from consensus.status import RoundStatus, Step
from consensus.timeouts import TimeoutConfig
from consensus.verifier import SignatureVerifier
from tests.consensus.scenario import CHAIN_ID, make_keys, sign_proposal, sign_vote

Message = Vote | Proposal | RoundStatus | Commit

HEARTBEAT_MS = 100
JUDGE_MS = 20
IDLE_MS = 2_000
REPAIR_LIMIT = 64
EVENTS_MAX = 200_000


@dataclass
class Faults:
    """What happens to messages; by default nothing but a delay of 10 ms."""

    is_dropped: Callable[[int, int, int, int], bool] = lambda _n, _now, _src, _dst: False
    delay_ms: Callable[[], int] = lambda: 10
    alter: Callable[[int, int, Message], Message] = lambda _src, _dst, message: message
    is_linked: Callable[[int, int], bool] = lambda _src, _dst: True
    has_relays: bool = True


@dataclass
class Node:
    """One driver with its caller's duties."""

    key: PrivateKey
    driver: Driver
    commits: dict[int, Commit] = field(default_factory=dict)
    rounds: dict[int, int] = field(default_factory=dict)
    evidence: list[DuplicateVoteEvidence] = field(default_factory=list)
    log: list[tuple[bytes, list[Effect]]] = field(default_factory=list)


class Network:
    """Drivers that decide heights until all have decided `heights`."""

    def __init__(
        self,
        count: int = 4,
        heights: int = 2,
        faults: Faults | None = None,
        timeouts: TimeoutConfig | None = None,
    ) -> None:
        self.keys = make_keys(count)
        self.genesis = ValidatorSet.from_powers((key.public_key, 1) for key in self.keys)
        self.heights = heights
        self.faults = Faults() if faults is None else faults
        self.timeouts = TimeoutConfig() if timeouts is None else timeouts
        self.now_ms = 1_000_000
        self.sent = 0
        self.block_times: dict[BlockId, int] = {}
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        verifier = SignatureVerifier(CHAIN_ID)
        self.nodes = [
            Node(key, self.make_driver(number, verifier)) for number, key in enumerate(self.keys)
        ]

    def make_driver(self, number: int, verifier: SignatureVerifier | None = None) -> Driver:
        """Return a new driver for a node; one memory of signatures serves a whole network."""
        return Driver(
            CHAIN_ID,
            self.keys[number].address,
            self.timeouts,
            verifier,
            validators=self.get_validators(1),
        )

    def get_validators(self, height: int) -> ValidatorSet:
        """Return the set of a height: the rotation takes a turn with each."""
        return self.genesis if height == 1 else self.genesis.advance(height - 1)

    def run(self, limit_ms: int) -> int | None:
        """Run until all have decided all heights; return the milliseconds, None if it is over."""
        start_ms = self.now_ms
        for number in range(len(self.nodes)):
            self._after(number, lambda number=number: self._beat(number))
            self._rest(number)
        for _ in range(EVENTS_MAX):
            if all(self.heights in node.commits for node in self.nodes):
                return self.now_ms - start_ms
            if not self._events or self._events[0][0] > start_ms + limit_ms:
                return None
            self.now_ms, _, act = heappop(self._events)
            act()
        raise AssertionError("the network never comes to rest")

    def compute_trace(self) -> str:
        """Return a digest of every input and effect of every node, in order."""
        digest = sha256()
        for node in self.nodes:
            for raw, effects in node.log:
                digest.update(raw)
                digest.update(repr(effects).encode())
        return digest.hexdigest()

    # --- a node's duties ---------------------------------------------------------------------

    def _feed(self, number: int, input_: Input) -> None:
        node = self.nodes[number]
        pending = [input_]
        while pending:
            current = pending.pop(0)
            effects = node.driver.receive(current)
            node.log.append((encode_input(current), effects))
            for effect in effects:
                pending += self._perform(number, effect)
        if node.driver.step is Step.DECIDED and node.driver.has_messages_for(
            node.driver.height + 1
        ):
            self._start(number, node.driver.height + 1)

    def _perform(self, number: int, effect: Effect) -> list[Input]:
        node = self.nodes[number]
        match effect:
            case Broadcast(content=content):
                message: Vote | Proposal
                back: Input
                if isinstance(content, UnsignedVote):
                    message = sign_vote(
                        node.key, content.type, content.height, content.round, content.block_id
                    )
                    back = VoteReceived(message)
                else:
                    message = sign_proposal(
                        node.key,
                        content.height,
                        content.round,
                        content.valid_round,
                        content.block_id,
                        content.time_ms,
                    )
                    back = ProposalReceived(message, self.now_ms)
                self._send_all(number, message)
                return [back]
            case ScheduleTimeout():
                elapsed = TimeoutElapsed(effect.kind, Height(effect.height), Round(effect.round))
                self._after(effect.duration_ms, lambda: self._feed(number, elapsed))
            case RequestProposal():
                block_id = self.make_block(number, effect.height, effect.round)
                return [
                    ProposeBlock(Height(effect.height), Round(effect.round), block_id, self.now_ms)
                ]
            case JudgeProposal():
                verdict = ProposalJudged(
                    Height(effect.height),
                    effect.block_id,
                    is_valid=True,
                    time_ms=self.block_times[effect.block_id],
                )
                self._after(JUDGE_MS, lambda: self._feed(number, verdict))
            case Decide():
                node.commits[effect.commit.height] = effect.commit
                node.rounds[effect.commit.height] = effect.round
                self._rest(number)
            case ReportEvidence():
                node.evidence.append(effect.evidence)
            case Relay() if self.faults.has_relays:
                self._send_all(number, effect.message)
        return []

    def make_block(self, number: int, height: int, round_: int, name: str = "") -> BlockId:
        """Return a new block of a node, with the present time."""
        seed = f"{height}/{round_}/{number}{name}".encode()
        block_id = BlockId(Hash(sha256(seed).digest()), 1, Hash(sha256(seed * 2).digest()))
        self.block_times.setdefault(block_id, self.now_ms)
        return block_id

    def _rest(self, number: int) -> None:
        """Start the next height: its proposer at once, the others when they hear of it."""
        node = self.nodes[number]
        height = node.driver.height + 1
        is_proposer = self.get_validators(height).proposer.address == node.key.address
        self._after(0 if is_proposer else IDLE_MS, lambda: self._start(number, height))

    def _start(self, number: int, height: int) -> None:
        driver = self.nodes[number].driver
        if driver.height + 1 != height or driver.step is not Step.DECIDED:
            return
        validators = self.get_validators(height).validators
        self._feed(number, StartHeight(Height(height), validators, self.now_ms, 500, 2_000))

    def _beat(self, number: int) -> None:
        self._send_all(number, self.nodes[number].driver.get_status())
        self._after(HEARTBEAT_MS, lambda: self._beat(number))

    def _receive(self, number: int, source: int, message: Message) -> None:
        node = self.nodes[number]
        match message:
            case Vote():
                self._feed(number, VoteReceived(message))
            case Proposal():
                self._feed(number, ProposalReceived(message, self.now_ms))
            case Commit():
                self._feed(number, CommitReceived(message))
            case RoundStatus():
                wanted = message.height + (1 if message.step is Step.DECIDED else 0)
                if wanted in node.commits:
                    self._send(number, source, node.commits[wanted])
                for repair in node.driver.get_repairs(message, REPAIR_LIMIT):
                    self._send(number, source, repair)

    # --- the wires ---------------------------------------------------------------------------

    def _send_all(self, source: int, message: Message) -> None:
        for target in range(len(self.nodes)):
            if target != source and self.faults.is_linked(source, target):
                self._send(source, target, message)

    def _send(self, source: int, target: int, message: Message) -> None:
        number = self.sent
        self.sent += 1
        if self.faults.is_dropped(number, self.now_ms, source, target):
            return
        altered = self.faults.alter(source, target, message)
        # Every message crosses the wire as bytes somewhere: what can't be encoded can't be sent.
        encode(altered)
        self._after(self.faults.delay_ms(), lambda: self._receive(target, source, altered))

    def _after(self, delay_ms: int, act: Callable[[], None]) -> None:
        self._order += 1
        heappush(self._events, (self.now_ms + delay_ms, self._order, act))
