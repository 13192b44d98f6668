"""What the consensus driver asks of its caller.

Owns the effects. Never performs them: the caller does, after the input that led to them is in the
log.
"""

from dataclasses import dataclass

from quorate.chain.evidence import DuplicateVoteEvidence
from quorate.chain.vote import BlockId, Commit, Proposal, Vote, VoteType

from consensus.inputs import TimeoutKind


@dataclass(frozen=True, slots=True)
class UnsignedVote:
    """A vote of this validator; the caller signs it. `block_id` None is nil."""

    type: VoteType
    height: int
    round: int
    block_id: BlockId | None


@dataclass(frozen=True, slots=True)
class UnsignedProposal:
    """A proposal of this validator; the caller signs it. `time_ms` is the block's time."""

    height: int
    round: int
    valid_round: int
    block_id: BlockId
    time_ms: int


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Sign this, log it, send it, and feed it back as an input."""

    content: UnsignedVote | UnsignedProposal


@dataclass(frozen=True, slots=True)
class ScheduleTimeout:
    """Feed `TimeoutElapsed(kind, height, round)` in `duration_ms`."""

    kind: TimeoutKind
    height: int
    round: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class RequestProposal:
    """It is this validator's turn to propose: answer with `ProposeBlock`."""

    height: int
    round: int


@dataclass(frozen=True, slots=True)
class JudgeProposal:
    """Fetch, execute and judge this block: answer with `ProposalJudged` once there is a verdict.

    Emitted once per block id and height. `proposal` is the proposal that names the block, or
    None when a quorum voted for a block that no proposal here has named; then the block can be
    had from those who voted. The verdict depends on the block alone, so `proposal` says where to
    look and never what to find.
    """

    height: int
    round: int
    block_id: BlockId
    proposal: Proposal | None


@dataclass(frozen=True, slots=True)
class Decide:
    """The height is decided: apply the block, which has been judged valid. Once per height."""

    commit: Commit
    round: int


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """A validator voted twice: once per validator, round and type."""

    evidence: DuplicateVoteEvidence


@dataclass(frozen=True, slots=True)
class Relay:
    """A peer's message is new and valid: pass it to peers not known to have it."""

    message: Vote | Proposal


Effect = (
    Broadcast | ScheduleTimeout | RequestProposal | JudgeProposal | Decide | ReportEvidence | Relay
)
