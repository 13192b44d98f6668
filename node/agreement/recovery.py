"""Restart: what the write-ahead log says of the height that was not finished.

Owns reading the log back and finding what was asked for but not yet done. Never performs an
effect: the consensus loop does.
"""

from collections.abc import Sequence

from quorate.chain.errors import DecodeError, StorageError
from quorate.chain.ids import Address, Height

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
    StartHeight,
    TimeoutElapsed,
    VoteReceived,
    decode_input,
)
from store.segmented_log import SegmentedLog


def read_inputs(log: SegmentedLog, height: Height, next_height: Height) -> list[Input]:
    """Return the logged inputs of the height in progress, from its StartHeight on.

    Raises
    ------
    StorageError
        If a record is no input of this version.
    """
    if log.last_mark is None or log.last_mark < height:
        # At genesis, after the log was moved away, or when a crash came between the block and
        # its marker: whatever the log holds belongs to heights that are decided.
        log.mark(height)
    inputs: list[Input] = []
    for raw in log.records_since_mark(height):
        try:
            item = decode_input(raw)
        except DecodeError as error:
            raise StorageError(
                f"the consensus log holds a record that this version cannot read ({error}): "
                "start the version that wrote it, or restore the log from a backup"
            ) from error
        if isinstance(item, StartHeight):
            inputs = []
            if item.height != next_height:
                continue
        inputs.append(item)
    is_started = bool(inputs) and isinstance(inputs[0], StartHeight)
    return inputs if is_started else []


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
