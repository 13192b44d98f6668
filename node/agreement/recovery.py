"""Restart: what was asked for in an unfinished height, and was not yet done.

Owns the comparison of the logged inputs with the effects they led to. Never performs an effect:
the consensus loop does.
"""

from collections.abc import Sequence

from quorate.chain.ids import Address

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
    Input,
    ProposalReceived,
    ProposeBlock,
    TimeoutElapsed,
    VoteReceived,
)


def find_outstanding_effects(
    inputs: Sequence[Input], effects: Sequence[Effect], round_: int, address: Address | None
) -> list[Effect]:
    """Return the effects that a restart has to perform again.

    Timeouts of the current round that did not elapse, verdicts (their results were in memory),
    the proposal of the current round if it was not made, own messages that were not logged, and
    a decision.
    """
    elapsed = {(i.kind, i.height, i.round) for i in inputs if isinstance(i, TimeoutElapsed)}
    proposed = {i.round for i in inputs if isinstance(i, ProposeBlock)}
    voted = {
        (i.vote.type, i.vote.round)
        for i in inputs
        if isinstance(i, VoteReceived) and i.vote.validator == address
    }
    signed = {
        i.proposal.round
        for i in inputs
        if isinstance(i, ProposalReceived) and i.proposal.proposer == address
    }
    outstanding: list[Effect] = []
    for effect in effects:
        match effect:
            case ScheduleTimeout():
                key = (effect.kind, effect.height, effect.round)
                is_due = effect.round >= round_ and key not in elapsed
            case RequestProposal():
                is_due = effect.round == round_ and effect.round not in proposed
            case Broadcast(UnsignedVote() as vote):
                is_due = vote.round == round_ and (vote.type, vote.round) not in voted
            case Broadcast(content):
                is_due = content.round == round_ and content.round not in signed
            case JudgeProposal() | Decide():
                is_due = True
            case ReportEvidence() | Relay():
                is_due = False
        if is_due:
            outstanding.append(effect)
    return outstanding
