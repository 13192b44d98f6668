"""The consensus loop: inputs in order, logged, then their effects in durable order.

Owns the one task that feeds the consensus driver, its inbox, its timers, and the step from a
decision to the next height. Never holds a rule of consensus (the driver does), executes nothing
(the executor does), and reads the network only through its inbox.

Durable order: each input is in the write-ahead log before its effects leave. Before an own vote or
proposal is signed, the log is synced; signing writes the last-signed record; then the message is
logged, sent, and fed back as an input. These are two of the three loops that ARCHITECTURE.md names;
the third is a decision that starts the next height.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio
from quorate.chain.ids import Height, Round
from quorate.chain.vote import BlockId, Commit, Proposal

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
)
from node.agreement.evidence_pool import EvidencePool
from node.agreement.following import Follower
from node.agreement.foreign_inputs import ForeignInputs
from node.agreement.height_log import HeightLog
from node.agreement.height_start import HeightStart
from node.agreement.inbox import Inbox, Incoming, IncomingPart, Item
from node.agreement.judging import Judge
from node.agreement.patience import Patience
from node.agreement.proposing import Proposer
from node.agreement.signer import Signer
from node.agreement.timeliness import find_untimeliness
from node.errors import DoubleSignError
from node.exchange.block_assembly import BlockAssembly
from node.exchange.broadcasting import Broadcaster
from node.exchange.catching_up import CatchUp
from node.execution.executor import ExecutedBlock, Executor
from p2p.network import PeerId

DRAIN_MAX = 128
"""Items handled between two looks at the node's other tasks."""
WRONG_PART_PENALTY = 20
EARLY_PARTS_MAX = 128
"""Parts of the next height's block that arrive before this height is done."""

_log = structlog.get_logger("consensus")


@dataclass(frozen=True, slots=True)
class ConsensusParts:
    """What the loop works with."""

    driver: Driver
    executor: Executor
    assembly: BlockAssembly
    signer: Signer | None
    log: HeightLog
    broadcaster: Broadcaster
    judge: Judge
    proposer: Proposer | None
    catch_up: CatchUp
    follower: Follower
    evidence: EvidencePool
    height_start: HeightStart
    foreign: ForeignInputs
    patience: Patience
    report: Callable[[PeerId, int, str], None]
    on_decided: Callable[[ExecutedBlock, Commit], None]
    on_round: Callable[[int, int], None]
    now_ms: Callable[[], int]


class ConsensusRunner:
    """Runs consensus, height after height.

    Parameters
    ----------
    parts : ConsensusParts
        What the loop works with.
    """

    def __init__(self, parts: ConsensusParts) -> None:
        self._parts = parts
        self._driver = parts.driver
        self._executor = parts.executor
        self._inbox = Inbox()
        # In order, so that one schedule of a simulation is always the same.
        self._scopes: dict[trio.CancelScope, None] = {}
        self._early_parts: list[IncomingPart] = []
        self._is_waiting = True
        self._undecided: Commit | None = None
        self._reported_round = -1

    # What others call: all return at once.

    def receive(self, item: Incoming | IncomingPart) -> None:
        """Put what a peer sent into the inbox; when it is full, drop it."""
        self._inbox.put_from_peer(item)

    def wake(self) -> None:
        """Look again whether there is a reason to start the next height."""
        if self._is_waiting:
            self._inbox.wake()

    @property
    def dropped_inputs(self) -> int:
        """Items from peers that found the inbox full."""
        return self._inbox.dropped

    @property
    def is_waiting(self) -> bool:
        """Whether the next height has not begun yet, for want of a reason."""
        return self._is_waiting

    async def run(self) -> None:
        """Run until cancelled.

        Raises
        ------
        StorageError
            If the log or the store fails; the node stops.
        SignerError, InvariantError
            If the last-signed record is not the newest; if a decided block is invalid here.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            with self._parts.judge.telling_divergence():
                self._recover()
                nursery.start_soon(self._watch_fetched)
                while True:
                    if not (self._is_waiting and await self._follow()):
                        await self._go_on()
                    for _ in range(DRAIN_MAX):
                        try:
                            self._handle(self._inbox.get_nowait())
                        except trio.WouldBlock:
                            break

    async def _follow(self) -> bool:
        return await self._parts.follower.follow(self._note_decided)

    async def _go_on(self) -> None:
        """Begin a height if there is a reason, and wait for something to handle."""
        self._take_fetched()
        if self._is_waiting and self._parts.height_start.is_due():
            self._start_height()
        with trio.move_on_at(self._get_wake_time()):
            self._handle(await self._inbox.get())

    def _get_wake_time(self) -> float:
        return self._parts.height_start.get_time() if self._is_waiting else math.inf

    def _handle(self, item: Item) -> None:
        match item:
            case None:
                pass
            case Incoming(input_, peer):
                self._step(input_, peer)
            case IncomingPart():
                self._add_part(item)
            case Commit():
                self._finish_decision(item)

    # One input, and what follows from it.

    def _step(self, input_: Input, peer: PeerId | None = None) -> None:
        if peer is None:
            self._parts.log.append_input(input_)
            effects = self._driver.receive(input_)
        else:
            effects = self._parts.foreign.receive(input_, peer)
        pending = deque([(effects, peer)])
        while pending:
            effects, sender = pending.popleft()
            for effect in effects:
                own = self._perform(effect, sender)
                if own is not None:
                    pending.append((self._driver.receive(own), None))
        if self._driver.round != self._reported_round:
            self._reported_round = self._driver.round
            self._parts.on_round(self._driver.height, self._driver.round)

    def _perform(self, effect: Effect, peer: PeerId | None) -> Input | None:
        """Carry out an effect; return the own message that it makes, already logged."""
        match effect:
            case Broadcast():
                return self._sign_and_send(effect)
            case ScheduleTimeout():
                is_now = effect.round == self._driver.round
                proposer = self._driver.proposer if is_now else None
                self._spawn(self._time, self._parts.patience.shorten(effect, proposer))
            case RequestProposal():
                self._spawn(self._propose, effect)
            case JudgeProposal():
                self._begin_judging(effect)
            case Decide():
                self._finish_decision(effect.commit)
            case ReportEvidence():
                if self._parts.evidence.add(effect.evidence):
                    _log.warning(
                        "conflicting_votes", validator=effect.evidence.first.validator.hex()
                    )
                    self._parts.broadcaster.send_evidence(effect.evidence)
            case Relay(message):
                if isinstance(message, Proposal):
                    self._log_untimeliness(message)
                if peer is not None:
                    self._parts.broadcaster.relay(message, peer)
        return None

    def _log_untimeliness(self, proposal: Proposal) -> None:
        parameters = self._executor.position.parameters
        reason = find_untimeliness(proposal, self._parts.now_ms(), parameters)
        if reason is not None:
            block = proposal.block_id.hash.hex()
            _log.warning("invalid_proposal", block=block, reason=reason, vote="nil")

    def _sign_and_send(self, effect: Broadcast) -> Input | None:
        signer = self._parts.signer
        if signer is None:
            return None
        # What led here is durable before the signature is: a node that came back with the record
        # of its vote, but without the block it voted for, could neither repeat nor change it. The
        # signed message itself is safe in the record, and is made again from the log.
        self._parts.log.sync()
        content = effect.content
        signed: Input
        try:
            if isinstance(content, UnsignedVote):
                vote = signer.sign_vote(content)
                signed = VoteReceived(vote)
            else:
                proposal = signer.sign_proposal(content)
                signed = ProposalReceived(proposal, self._parts.now_ms())
        except DoubleSignError as error:
            # After a crash the log may lack what was signed last. Silence is always safe.
            _log.warning("not_signed", reason=str(error))
            return None
        self._parts.log.append_input(signed)
        if isinstance(signed, VoteReceived):
            self._parts.broadcaster.send_vote(signed.vote)
        else:
            parts = self._parts.assembly.get(signed.proposal.block_id.parts_root)
            self._parts.broadcaster.send_proposal(signed.proposal, parts)
        return signed

    # Proposals and verdicts: made by tasks of the height, fed back through the inbox.

    async def _time(self, timeout: ScheduleTimeout) -> None:
        await trio.sleep(timeout.duration_ms / 1000)
        self._parts.patience.note_elapsed(timeout)
        elapsed = TimeoutElapsed(timeout.kind, Height(timeout.height), Round(timeout.round))
        self._inbox.put_own(Incoming(elapsed))

    async def _propose(self, request: RequestProposal) -> None:
        if self._parts.proposer is None:
            return
        executed = await self._parts.proposer.make_block()
        self._parts.assembly.add_whole(executed.block_id, executed.raw)
        header = executed.block.header
        proposed = ProposeBlock(
            header.height, Round(request.round), executed.block_id, header.time_ms
        )
        self._inbox.put_own(Incoming(proposed))

    def _begin_judging(self, effect: JudgeProposal) -> None:
        self._parts.assembly.expect(effect.block_id)
        for early in [e for e in self._early_parts if e.message.height == self._driver.height]:
            if early.message.parts_root == effect.block_id.parts_root:
                self._add_part(early)
        self._spawn(self._judge, effect.block_id)

    async def _judge(self, block_id: BlockId) -> None:
        height = self._driver.height
        executed = await self._parts.judge.judge(block_id)
        is_valid = executed is not None
        if executed is not None:
            self._parts.log.append_block(block_id, executed.raw)
        time_ms = executed.block.header.time_ms if executed is not None else 0
        verdict = ProposalJudged(Height(height), block_id, is_valid, time_ms)
        self._inbox.put_own(Incoming(verdict))

    def _add_part(self, item: IncomingPart) -> None:
        message = item.message
        if message.height == self._driver.height and not self._is_waiting:
            parts = self._parts.assembly.add_part(message.parts_root, message.part)
            if parts is not None:
                self._parts.judge.notice(parts)
                self._parts.broadcaster.relay(message, item.peer)
                return
            known = self._parts.assembly.get(message.parts_root)
            if known is not None:
                if message.part.index not in known.parts:
                    self._parts.report(
                        item.peer, WRONG_PART_PENALTY, "a part that its block does not have"
                    )
                return
        is_near = self._driver.height <= message.height <= self._driver.height + 1
        if is_near and len(self._early_parts) < EARLY_PARTS_MAX:
            self._early_parts.append(item)

    # From a decision to the next height.

    def _finish_decision(self, commit: Commit) -> None:
        if commit.height != self._executor.position.next_height:
            return
        if self._executor.get_executed(commit.block_id.hash) is None:
            # After a restart the log knows the verdict, but the result is to be computed again.
            if self._undecided is None:
                self._undecided = commit
                self._spawn(self._execute_decided, commit)
            return
        self._undecided = None
        executed = self._executor.commit(commit)
        self._parts.log.mark(commit.height)
        self._cancel_tasks()
        self._is_waiting = True
        self._parts.catch_up.advance(commit.height)
        self._note_decided(executed, commit)

    def _note_decided(self, executed: ExecutedBlock, commit: Commit) -> None:
        self._parts.height_start.note_decision()
        self._parts.evidence.remove(executed.evidence)
        self._parts.on_decided(executed, commit)

    async def _execute_decided(self, commit: Commit) -> None:
        self._parts.assembly.expect(commit.block_id)
        executed = await self._parts.judge.judge(commit.block_id)
        if executed is None:
            self._parts.judge.raise_divergence(commit)
        self._inbox.put_own(commit)

    def _start_height(self) -> None:
        position = self._executor.position
        self._is_waiting = False
        self._parts.assembly.start_height(position.next_height)
        self._parts.judge.start_height()
        self._early_parts = [
            item for item in self._early_parts if item.message.height >= position.next_height
        ]
        self._step(
            StartHeight(
                position.next_height,
                position.validators.validators,
                self._parts.now_ms(),
                position.parameters.precision_ms,
                position.parameters.message_delay_ms,
            )
        )

    # Blocks that peers decided without us.

    async def _watch_fetched(self) -> None:
        while True:
            await self._parts.catch_up.arrived.wait()
            self._inbox.wake()

    def _take_fetched(self) -> None:
        fetched = self._parts.catch_up.get(self._executor.position.next_height)
        commit = None if self._is_waiting else self._driver.commit
        is_news = commit is None
        if commit is None:
            found = self._parts.follower.find_next()
            fetched, commit = found if found is not None else (None, None)
        if fetched is None or commit is None:
            return
        if self._is_waiting:
            self._start_height()
        parts = self._parts.assembly.add_whole(commit.block_id, fetched.block)
        if parts.raw is None:
            self._parts.catch_up.refuse(fetched, "block differs from what its commit names")
            return
        self._parts.judge.notice(parts)
        if is_news:
            self._step(CommitReceived(commit))

    # Restart.

    def _recover(self) -> None:
        """Bring the driver to where the log says it was, then take up what was left undone."""
        position = self._executor.position
        logged = self._parts.log.read(position.height)
        inputs = logged.inputs
        if not inputs:
            return
        self._is_waiting = False
        self._parts.assembly.start_height(position.next_height)
        self._parts.judge.start_height()
        for block in logged.blocks:
            self._parts.assembly.add_whole(block.block_id, block.raw)
        # The pool of evidence was in memory; what the driver waits for, it tells by itself.
        evidence = [
            effect
            for item in inputs
            for effect in self._driver.receive(item)
            if isinstance(effect, ReportEvidence)
        ]
        _log.info("replayed", inputs=len(inputs), height=self._driver.height)
        for effect in (*evidence, *self._driver.get_pending_effects()):
            own = self._perform(effect, None)
            if own is not None:
                self._inbox.put_own(Incoming(own))

    # Tasks that end with their height.

    def _spawn(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        # The scope is there before the task runs, so that a height which ends first ends it, too.
        scope = trio.CancelScope()
        self._scopes[scope] = None
        self._nursery.start_soon(self._run_scoped, scope, work, args)

    async def _run_scoped(
        self,
        scope: trio.CancelScope,
        work: Callable[..., Awaitable[None]],
        args: tuple[object, ...],
    ) -> None:
        try:
            with scope:
                await trio.lowlevel.checkpoint_if_cancelled()
                await work(*args)
        finally:
            self._scopes.pop(scope, None)

    def _cancel_tasks(self) -> None:
        for scope in tuple(self._scopes):
            scope.cancel()
