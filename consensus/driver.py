"""The driver over heights: the one door into consensus.

Owns the way of an input to the height it is for: what is early is kept within bounds, what is
late, foreign or wrongly signed is dropped, the rest reaches the state machine. Never raises for
what came from outside.
"""

from typing import assert_never

from quorate.chain.errors import InvariantError
from quorate.chain.evidence import make_duplicate_vote_evidence
from quorate.chain.ids import Address, Height, Round
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import Commit, Proposal, Vote, VoteType

from consensus.algorithm import HeightMachine, Lock
from consensus.early_messages import EarlyMessages
from consensus.effects import Effect, Relay, ReportEvidence
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
from consensus.repair import make_repairs, make_status
from consensus.round_votes import StampedProposal
from consensus.status import RoundStatus, Step
from consensus.timeouts import TimelinessBounds, TimeoutConfig
from consensus.verifier import SignatureVerifier, Verifier


class Driver:
    """Consensus of one node, height after height.

    Parameters
    ----------
    chain_id : str
        The chain whose messages the default verifier accepts.
    address : bytes, 20, or None
        This validator. With None the driver follows and decides, and never votes or proposes.
    timeouts : TimeoutConfig
        The durations of the three timeouts.
    verifier : Verifier, optional
        Who checks signatures; by default a `SignatureVerifier` for `chain_id`.
    last_height : int
        The height decided before this driver began: the one before its first `StartHeight`.
    validators : ValidatorSet, optional
        The set of the first height. Without it, whatever comes before the first `StartHeight` is
        dropped, since nobody can tell whether it is genuine.
    lock : Lock, optional
        What this validator has precommitted last, as its last-signed record says. It holds even if
        the inputs that led to it are lost.
    """

    def __init__(
        self,
        chain_id: str,
        address: Address | None,
        timeouts: TimeoutConfig,
        verifier: Verifier | None = None,
        *,
        last_height: int = 0,
        validators: ValidatorSet | None = None,
        lock: Lock | None = None,
    ) -> None:
        self._lock = lock
        self._address = address
        self._timeouts = timeouts
        self._verifier = SignatureVerifier(chain_id) if verifier is None else verifier
        self._last_height = last_height
        self._validators = validators
        self._machine: HeightMachine | None = None
        self._bounds = TimelinessBounds(0, 0)
        self._early = EarlyMessages()
        self._early_commit: Commit | None = None

    @property
    def height(self) -> int:
        """The height at work, or the last one decided while none has started since."""
        return self._last_height if self._machine is None else self._machine.height

    @property
    def round(self) -> int:
        """The round of the height."""
        return 0 if self._machine is None else self._machine.round

    @property
    def step(self) -> Step:
        """The step of the round; DECIDED between a decision and the next height."""
        return Step.DECIDED if self._machine is None else self._machine.step

    @property
    def commit(self) -> Commit | None:
        """The proof that the height is decided, also while its block is still being fetched."""
        return None if self._machine is None else self._machine.commit

    @property
    def proposer(self) -> Address | None:
        """Who proposes in the current round."""
        machine = self._machine
        return None if machine is None else machine.rotation.get_proposer(machine.round)

    def receive(self, input_: Input) -> list[Effect]:
        """Take one input, and return what is to be done about it, in this order.

        Messages from outside that are late, early beyond the bounds, foreign or wrongly signed
        change nothing.

        Raises
        ------
        InvariantError
            If `StartHeight` does not go up, or a block that this node has found invalid is
            decided. The node must stop.
        """
        match input_:
            case StartHeight():
                self._start_height(input_)
            case ProposalReceived(proposal=proposal):
                self._receive_proposal(input_, proposal)
            case VoteReceived(vote=vote):
                self._receive_vote(input_, vote)
            case CommitReceived(commit=commit):
                self._receive_commit(commit)
            case ProposalJudged() | ProposeBlock() | TimeoutElapsed():
                self._receive_answer(input_)
            case _:
                assert_never(input_)
        machine = self._machine
        if machine is None:
            return []
        machine.apply_rules()
        effects, machine.effects = machine.effects, []
        return effects

    def has_messages_for(self, height: int) -> bool:
        """Tell whether a validator has sent something of a height that has not started here."""
        return self._early.has_any(height) or (
            self._early_commit is not None and self._early_commit.height == height
        )

    def get_status(self) -> RoundStatus:
        """Return what peers need to know to send what is missing here."""
        if self._machine is None:
            return RoundStatus(Height(self._last_height), Round(0), Step.DECIDED, ())
        return make_status(self._machine)

    def get_repairs(self, status: RoundStatus, limit: int) -> list[Vote | Proposal]:
        """Return what the sender of `status` lacks, most useful first, at most `limit` messages.

        For a peer at a lower height there is nothing here, except for one that rests just before
        this height: it gets the commit of its height from the caller.
        """
        return [] if self._machine is None else make_repairs(self._machine, status, limit)

    def get_pending_effects(self) -> list[Effect]:
        """Return the effects whose answer has not come, to be performed after a replay.

        These are own votes and proposals of the current round that have not come back signed,
        its timeouts, the request for a block, and verdicts asked for; or the decision.
        """
        return [] if self._machine is None else self._machine.get_pending_effects()

    def _start_height(self, start: StartHeight) -> None:
        if start.height <= self.height:
            raise InvariantError(f"height {start.height} cannot start after {self.height}")
        self._validators = ValidatorSet(start.validators)
        self._bounds = TimelinessBounds(start.precision_ms, start.message_delay_ms)
        self._machine = HeightMachine(start.height, self._validators, self._address, self._timeouts)
        if self._lock is not None and self._lock.height == start.height:
            self._machine.restore_lock(self._lock)
        self._machine.start()
        for message in self._early.take(start.height):
            if isinstance(message, VoteReceived):
                self._count_vote(self._machine, message.vote)
            else:
                self._keep_proposal(self._machine, message)
        commit, self._early_commit = self._early_commit, None
        if commit is not None and commit.height == start.height:
            self._receive_commit(commit)

    def _receive_answer(self, answer: ProposalJudged | ProposeBlock | TimeoutElapsed) -> None:
        machine = self._machine
        if machine is None or answer.height != machine.height or machine.step is Step.DECIDED:
            return
        match answer:
            case ProposalJudged():
                machine.receive_verdict(answer)
            case ProposeBlock():
                machine.receive_block(answer)
            case TimeoutElapsed():
                machine.receive_timeout(answer)

    def _receive_vote(self, received: VoteReceived, vote: Vote) -> None:
        machine = self._machine
        if vote.height > self.height:
            if (
                self._validators is not None
                and self._early.has_place(self.height, received)
                and self._verifier.is_vote_valid(vote, self._validators)
            ):
                self._early.add(received)
        elif machine is not None and vote.height == machine.height:
            self._count_vote(machine, vote)

    def _count_vote(self, machine: HeightMachine, vote: Vote) -> None:
        index = machine.validators.index_by_address.get(vote.validator)
        if (
            index is None
            or machine.step is Step.DECIDED
            or not machine.keeper.is_vote_wanted(index, vote)
            or not self._verifier.is_vote_valid(vote, machine.validators)
        ):
            return
        addition = machine.keeper.add_vote(index, vote)
        if addition.conflicting is not None:
            evidence = make_duplicate_vote_evidence(addition.conflicting, vote)
            machine.effects.append(ReportEvidence(evidence))
        if not addition.is_counted:
            return
        if vote.validator == self._address:
            machine.note_own_vote(vote.type, vote.round)
        else:
            machine.effects.append(Relay(vote))
        if vote.type is VoteType.PRECOMMIT:
            machine.note_precommits(vote.round)

    def _receive_proposal(self, received: ProposalReceived, proposal: Proposal) -> None:
        machine = self._machine
        if proposal.valid_round >= proposal.round:
            return
        if proposal.height > self.height:
            if (
                self._validators is not None
                and self._early.has_place(self.height, received)
                and self._verifier.is_proposal_valid(proposal, self._validators)
            ):
                self._early.add(received)
        elif machine is not None and proposal.height == machine.height:
            self._keep_proposal(machine, received)

    def _keep_proposal(self, machine: HeightMachine, received: ProposalReceived) -> None:
        proposal = received.proposal
        index = machine.validators.index_by_address.get(proposal.proposer)
        if (
            index is None
            or machine.step is Step.DECIDED
            or machine.rotation.get_proposer(proposal.round) != proposal.proposer
            or not machine.keeper.is_proposal_wanted(index, proposal.round)
            or not self._verifier.is_proposal_valid(proposal, machine.validators)
        ):
            return
        is_timely = self._bounds.is_timely(proposal.time_ms, received.received_ms, proposal.round)
        machine.keeper.add_proposal(index, StampedProposal(proposal, is_timely))
        if proposal.proposer != self._address:
            machine.effects.append(Relay(proposal))
        machine.note_proposal(proposal)

    def _receive_commit(self, commit: Commit) -> None:
        machine = self._machine
        if commit.height == self.height + 1:
            if (
                self._validators is not None
                and self._early_commit is None
                and self._verifier.is_commit_valid(commit, self._validators)
            ):
                self._early_commit = commit
        elif (
            machine is not None
            and commit.height == machine.height
            and machine.commit is None
            and self._verifier.is_commit_valid(commit, machine.validators)
        ):
            machine.note_commit(commit)
