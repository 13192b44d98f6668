"""Algorithm 1 of arXiv:1807.04938, "Tendermint consensus algorithm", for one height.

Owns round, step, lock and valid value, and the rules: one function for each `upon` clause, named
by its line, tried in the order of `RULES` until none fires. Never checks a signature or a bound
on messages: what is in the round keeper is genuine and wanted.

Where the paper speaks of a value v, this speaks of its block id, and of valid(v) as a verdict
that may come later than the proposal. Until it comes, a rule that needs it does not fire. Two
rules see further than the letter of the paper: a polka (L36) or a commit (L49) for a block whose
proposal never came counts once the block itself has been fetched and judged, since an honest
validator among the voters has seen the proposal. And the proposer, too, waits no longer than
timeoutPropose for its own value (L20-L21).
"""

from collections.abc import Callable
from typing import NamedTuple

from quorate.chain.errors import InvariantError
from quorate.chain.ids import Address
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import BlockId, Commit, Proposal, VoteType

from consensus.effects import (
    Broadcast,
    Decide,
    Effect,
    JudgeProposal,
    RequestProposal,
    ScheduleTimeout,
    UnsignedProposal,
    UnsignedVote,
)
from consensus.inputs import ProposalJudged, ProposeBlock, TimeoutElapsed, TimeoutKind
from consensus.rotation import Rotation
from consensus.round_votes import RoundKeeper
from consensus.status import Step
from consensus.timeouts import TimeoutConfig
from consensus.verdicts import Verdicts

NIL = None
"""The value of a nil vote."""
FIRINGS_MAX = 32
"""How often rules may fire on one input. One input moves at most one round ahead (L55), in which
each rule fires once, and L36 once more to ask for a block."""


class InvalidBlockDecided(InvariantError):  # noqa: N818 - it says what happened.
    """A quorum has decided a block that this node has found invalid; the node must stop.

    Parameters
    ----------
    commit : Commit
        The proof.
    """

    def __init__(self, commit: Commit) -> None:
        super().__init__(
            f"height {commit.height} is decided as block {commit.block_id.hash.hex()}, which this "
            "node has found invalid: it, or a third of the validators, is wrong"
        )
        self.commit = commit


class Lock(NamedTuple):
    """The last precommit of a validator for a block: lockedValue and lockedRound of a height."""

    height: int
    round: int
    block_id: BlockId


class HeightMachine:
    """The state of one height (L1-L9) and the rules that change it.

    Parameters
    ----------
    height : int
        The height (h_p).
    validators : ValidatorSet
        Who votes, with which power, and who proposes.
    address : bytes, 20, or None
        This validator (p). Without one, or with one that is no member, the machine follows the
        rules in silence.
    timeouts : TimeoutConfig
        The durations of the three timeouts.
    """

    __slots__ = (
        "_address",
        "_has_scheduled_precommit_timeout",
        "_has_scheduled_prevote_timeout",
        "_has_seen_polka",
        "_is_member",
        "_timeouts",
        "_unanswered",
        "commit",
        "effects",
        "height",
        "keeper",
        "locked_block",
        "locked_round",
        "rotation",
        "round",
        "step",
        "valid_block",
        "valid_round",
        "validators",
        "verdicts",
    )

    def __init__(
        self,
        height: int,
        validators: ValidatorSet,
        address: Address | None,
        timeouts: TimeoutConfig,
    ) -> None:
        self.height = height
        self.validators = validators
        self.round = 0
        self.step = Step.PROPOSE
        self.locked_block: BlockId | None = None
        self.locked_round = -1
        self.valid_block: BlockId | None = None
        self.valid_round = -1
        self.keeper = RoundKeeper(validators)
        self.rotation = Rotation(validators)
        self.verdicts = Verdicts()
        self.commit: Commit | None = None
        self.effects: list[Effect] = []
        self._address = address
        self._is_member = address is not None and address in validators.by_address
        self._timeouts = timeouts
        self._has_seen_polka = False
        self._has_scheduled_prevote_timeout = False
        self._has_scheduled_precommit_timeout = False
        # What this round asked of the caller, by what its answer will look like.
        self._unanswered: dict[object, Effect] = {}

    def restore_lock(self, lock: Lock) -> None:
        """Be locked as before a restart, whatever the messages that led to the lock came to."""
        self.locked_block, self.locked_round = lock.block_id, lock.round

    # --- inputs ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the height (L10)."""
        self.start_round_l11(0)

    def receive_verdict(self, verdict: ProposalJudged) -> None:
        """Note valid(v) of a block."""
        self.verdicts.answer(verdict, self._get_protected_blocks())

    def receive_block(self, answer: ProposeBlock) -> None:
        """Propose the block that the caller has made (L18-L19), unless its time is over."""
        asked = self._unanswered.get(RequestProposal)
        if asked is None or (answer.height, answer.round) != (self.height, self.round):
            return
        del self._unanswered[RequestProposal]
        if self.step is Step.PROPOSE:
            self._broadcast_proposal(-1, answer.block_id, answer.time_ms)

    def receive_timeout(self, elapsed: TimeoutElapsed) -> None:
        """Act on a timeout of this round; a timeout of another round means nothing any more."""
        if (elapsed.height, elapsed.round) != (self.height, self.round):
            return
        self._unanswered.pop(elapsed.kind, None)
        match elapsed.kind:
            case TimeoutKind.PROPOSE:
                self.upon_timeout_propose_l57()
            case TimeoutKind.PREVOTE:
                self.upon_timeout_prevote_l61()
            case TimeoutKind.PRECOMMIT:
                self.upon_timeout_precommit_l65()

    def note_proposal(self, proposal: Proposal) -> None:
        """Take up a proposal that has been kept; one of a later round waits for that round."""
        if proposal.proposer == self._address:
            self._unanswered.pop((UnsignedProposal, proposal.round), None)
        if proposal.round == self.round:
            self._take_up_proposal(proposal)

    def note_own_vote(self, type_: VoteType, round_: int) -> None:
        """Remember that a vote of this validator has come back signed."""
        self._unanswered.pop((UnsignedVote, type_, round_), None)

    def note_precommits(self, round_: int) -> None:
        """Look for a decision among the precommits of a round that have just changed."""
        votes = self.keeper.get(round_)
        block_id = None if votes is None else votes.precommits.quorum_block
        if votes is not None and block_id is not None:
            self.note_commit(votes.precommits.make_commit(block_id))

    def note_commit(self, commit: Commit) -> None:
        """Keep a proof that the height is decided; its block may still have to be fetched."""
        if self.commit is None:
            self.commit = commit
            self._ask(commit.round, commit.block_id, None)

    def apply_rules(self) -> None:
        """Fire rules in their order, from the first again after each, until none fires."""
        for _ in range(FIRINGS_MAX):
            if self.step is Step.DECIDED or not any(rule(self) for rule in RULES):
                return
        raise InvariantError(f"the rules fired {FIRINGS_MAX} times on one input")

    def get_pending_effects(self) -> list[Effect]:
        """Return the effects that still wait for their answer, for a caller that restarts."""
        pending: list[Effect] = list(self.verdicts.get_open())
        if self.step is Step.DECIDED and self.commit is not None:
            return [Decide(self.commit, self.commit.round)]
        return pending + list(self._unanswered.values())

    # --- Algorithm 1 -------------------------------------------------------------------------

    def start_round_l11(self, round_: int) -> None:
        """L11-L21: begin a round; propose, or wait for the proposal."""
        self.round = round_  # L12
        self.step = Step.PROPOSE  # L13
        self._has_seen_polka = False
        self._has_scheduled_prevote_timeout = False
        self._has_scheduled_precommit_timeout = False
        self._unanswered.clear()
        self.rotation.enter(round_)
        self.keeper.enter(round_, (self.locked_round, self.valid_round))
        self._schedule(TimeoutKind.PROPOSE)  # L21
        if self._is_member and self.rotation.get_proposer(round_) == self._address:  # L14
            self._propose()
        proposal = self.keeper.current.proposal
        if proposal is not None:
            self._take_up_proposal(proposal)

    def upon_fresh_proposal_l22(self) -> bool:
        """L22-L27: prevote on a proposal of a new value. Only here does timeliness count."""
        stamped = self.keeper.current.stamped
        if self.step is not Step.PROPOSE or stamped is None or stamped.proposal.valid_round != -1:
            return False
        block_id = stamped.proposal.block_id
        is_free = self.locked_round == -1 or self.locked_block == block_id
        if not is_free or not stamped.is_timely:
            # The vote is nil whatever the verdict, so it need not wait for it.
            return self._prevote(NIL)  # L26
        verdict = self.verdicts.get(block_id)
        if verdict is None:
            return False
        # A proposal must not claim another time than its block has: that would be its timeliness.
        is_good = verdict.is_valid and verdict.time_ms == stamped.proposal.time_ms  # L23
        return self._prevote(block_id if is_good else NIL)  # L24, L26

    def upon_reproposal_l28(self) -> bool:
        """L28-L33: prevote on a proposal of a value that had a polka in an earlier round."""
        proposal = self.keeper.current.proposal
        if self.step is not Step.PROPOSE or proposal is None or proposal.valid_round == -1:
            return False
        votes = self.keeper.get(proposal.valid_round)
        if votes is None or not votes.prevotes.has_quorum_for(proposal.block_id):
            return False
        is_free = (
            self.locked_round <= proposal.valid_round or self.locked_block == proposal.block_id
        )
        if not is_free:
            return self._prevote(NIL)  # L32
        verdict = self.verdicts.get(proposal.block_id)
        if verdict is None:
            return False
        return self._prevote(proposal.block_id if verdict.is_valid else NIL)  # L29-L30, L32

    def upon_any_prevotes_l34(self) -> bool:
        """L34-L35: a quorum has prevoted, whatever; give a polka some time to show."""
        if (
            self._has_scheduled_prevote_timeout
            or self.step is not Step.PREVOTE
            or not self.keeper.current.prevotes.has_any_quorum
        ):
            return False
        self._has_scheduled_prevote_timeout = True
        self._schedule(TimeoutKind.PREVOTE)
        return True

    def upon_proposal_and_polka_l36(self) -> bool:
        """L36-L43: a valid block has a polka; lock it, precommit it, remember it as valid."""
        block_id = self.keeper.current.prevotes.quorum_block
        if self._has_seen_polka or self.step < Step.PREVOTE or block_id is None:
            return False
        if not self.verdicts.is_valid(block_id):
            return self._ask(self.round, block_id, None)
        self._has_seen_polka = True
        if self.step is Step.PREVOTE:  # L37
            # A lock that was restored may be of a later round than the one that is taken up again.
            if self.round >= self.locked_round:
                self.locked_block = block_id  # L38
                self.locked_round = self.round  # L39
            self._vote(VoteType.PRECOMMIT, block_id)  # L40
            self.step = Step.PRECOMMIT  # L41
        self.valid_block = block_id  # L42
        self.valid_round = self.round  # L43
        self._pin_rounds()
        return True

    def upon_nil_polka_l44(self) -> bool:
        """L44-L46: a quorum has prevoted nil; precommit nil. The lock stays as it is."""
        if self.step is not Step.PREVOTE or not self.keeper.current.prevotes.has_nil_quorum:
            return False
        self._precommit_nil()
        return True

    def upon_any_precommits_l47(self) -> bool:
        """L47-L48: a quorum has precommitted, whatever; give a decision some time to show."""
        if (
            self._has_scheduled_precommit_timeout
            or not self.keeper.current.precommits.has_any_quorum
        ):
            return False
        self._has_scheduled_precommit_timeout = True
        self._schedule(TimeoutKind.PRECOMMIT)
        return True

    def upon_commit_l49(self) -> bool:
        """L49-L54: a quorum has precommitted a valid block in any round; decide it."""
        verdict = None if self.commit is None else self.verdicts.get(self.commit.block_id)
        if self.commit is None or verdict is None:
            return False
        if not verdict.is_valid:
            raise InvalidBlockDecided(self.commit)
        self.step = Step.DECIDED
        self.effects.append(Decide(self.commit, self.commit.round))  # L51
        return True

    def upon_later_round_l55(self) -> bool:
        """L55-L56: f+1 validators are in a later round; follow them."""
        round_ = self.keeper.find_skip_round()
        if round_ is None:
            return False
        self.start_round_l11(round_)
        return True

    def upon_timeout_propose_l57(self) -> None:
        """L57-L60: no proposal to vote for came in time; prevote nil."""
        if self.step is Step.PROPOSE:
            self._prevote(NIL)

    def upon_timeout_prevote_l61(self) -> None:
        """L61-L64: no polka came in time; precommit nil."""
        if self.step is Step.PREVOTE:
            self._precommit_nil()

    def upon_timeout_precommit_l65(self) -> None:
        """L65-L67: no decision came in time; begin the next round."""
        self.start_round_l11(self.round + 1)

    # --- what the rules have in common -------------------------------------------------------

    def _propose(self) -> None:
        """L15-L19: propose the valid value again, or ask for a new one."""
        if self.valid_block is None:
            request = RequestProposal(self.height, self.round)
            self._unanswered[RequestProposal] = request
            self.effects.append(request)  # L18
            return
        verdict = self.verdicts.get(self.valid_block)
        if verdict is None:
            raise InvariantError("the verdict on the valid value is gone")
        self._broadcast_proposal(self.valid_round, self.valid_block, verdict.time_ms)  # L16

    def _broadcast_proposal(self, valid_round: int, block_id: BlockId, time_ms: int) -> None:
        content = UnsignedProposal(self.height, self.round, valid_round, block_id, time_ms)
        broadcast = Broadcast(content)
        self._unanswered[UnsignedProposal, self.round] = broadcast
        self.effects.append(broadcast)  # L19

    def _take_up_proposal(self, proposal: Proposal) -> None:
        """Ask for the verdict on the round's proposal, and let votes count for what it names."""
        self._pin_rounds()
        self.keeper.current.prevotes.claim(proposal.block_id)
        self.keeper.current.precommits.claim(proposal.block_id)
        earlier = self.keeper.get(proposal.valid_round)
        if earlier is not None:
            earlier.prevotes.claim(proposal.block_id)
        self._ask(proposal.round, proposal.block_id, proposal)

    def _ask(self, round_: int, block_id: BlockId, proposal: Proposal | None) -> bool:
        question = JudgeProposal(self.height, round_, block_id, proposal)
        is_new = self.verdicts.ask(question, self._get_protected_blocks())
        if is_new:
            self.effects.append(question)
        return is_new

    def _get_protected_blocks(self) -> tuple[BlockId | None, ...]:
        proposal = self.keeper.current.proposal
        return (
            self.locked_block,
            self.valid_block,
            None if self.commit is None else self.commit.block_id,
            None if proposal is None else proposal.block_id,
            self.keeper.current.prevotes.quorum_block,
        )

    def _pin_rounds(self) -> None:
        proposal = self.keeper.current.proposal
        named = -1 if proposal is None else proposal.valid_round
        self.keeper.pin((self.locked_round, self.valid_round, named))

    def _prevote(self, block_id: BlockId | None) -> bool:
        self._vote(VoteType.PREVOTE, block_id)
        self.step = Step.PREVOTE
        return True

    def _precommit_nil(self) -> None:
        self._vote(VoteType.PRECOMMIT, NIL)
        self.step = Step.PRECOMMIT

    def _vote(self, type_: VoteType, block_id: BlockId | None) -> None:
        if not self._is_member:
            return
        broadcast = Broadcast(UnsignedVote(type_, self.height, self.round, block_id))
        self._unanswered[UnsignedVote, type_, self.round] = broadcast
        self.effects.append(broadcast)

    def _schedule(self, kind: TimeoutKind) -> None:
        duration_ms = self._timeouts.compute_duration_ms(kind, self.round)
        scheduled = ScheduleTimeout(kind, self.height, self.round, duration_ms)
        self._unanswered[kind] = scheduled
        self.effects.append(scheduled)


RULES: tuple[Callable[[HeightMachine], bool], ...] = (
    HeightMachine.upon_commit_l49,
    HeightMachine.upon_later_round_l55,
    HeightMachine.upon_fresh_proposal_l22,
    HeightMachine.upon_reproposal_l28,
    HeightMachine.upon_proposal_and_polka_l36,
    HeightMachine.upon_nil_polka_l44,
    HeightMachine.upon_any_prevotes_l34,
    HeightMachine.upon_any_precommits_l47,
)
"""The fixed order. A decision comes first; what moves the step comes before what starts a timer."""
