"""Which messages a peer lacks: the answer to a dropped message.

Owns the making and the reading of round statuses. Never sends anything, and believes no status
further than what it is good for: choosing what to send.

A status names the rounds that its sender can use messages of, each with bitmaps of the votes it
needs no more; so whatever was lost is sent again at the next exchange, until it arrives. For the
valid round that the current proposal names, only votes for the proposed block count as held: a
validator that showed this node another vote must not hide the polka (L28).
"""

from collections.abc import Iterator

from quorate.chain.ids import Height, Round
from quorate.chain.vote import Proposal, Vote, get_precommits

from consensus.algorithm import HeightMachine
from consensus.round_votes import RoundVotes
from consensus.status import (
    STATUS_ROUNDS_MAX,
    RoundBits,
    RoundStatus,
    Step,
    get_bits,
    make_bitmap,
    read_bitmap,
)


def make_status(machine: HeightMachine) -> RoundStatus:
    """Return what the node tells its peers."""
    rounds: list[RoundBits] = []
    if machine.step is not Step.DECIDED:
        for round_ in _get_useful_rounds(machine):
            votes = machine.keeper.get(round_)
            if votes is not None:
                rounds.append(_make_bits(machine, round_, votes))
    return RoundStatus(Height(machine.height), Round(machine.round), machine.step, tuple(rounds))


def make_repairs(machine: HeightMachine, status: RoundStatus, limit: int) -> list[Vote | Proposal]:
    """Return at most `limit` messages that the sender of `status` lacks, most useful first."""
    if status.height == machine.height - 1 and status.step is Step.DECIDED:
        # The peer rests before this height; whatever it gets makes it start.
        status = RoundStatus(Height(machine.height), Round(0), Step.PROPOSE, ())
    if limit <= 0 or status.height != machine.height or status.step is Step.DECIDED:
        return []
    lacking = (
        _get_decided(machine, status)
        if machine.step is Step.DECIDED
        else _get_undecided(machine, status)
    )
    return [message for message, _ in zip(lacking, range(limit), strict=False)]


def _get_useful_rounds(machine: HeightMachine) -> list[int]:
    """Return the rounds of a status: the current one, valid ones, later ones with most power."""
    proposal = machine.keeper.current.proposal
    named = -1 if proposal is None else proposal.valid_round
    rounds = [machine.round]
    for round_ in (named, machine.valid_round):
        if round_ >= 0 and round_ not in rounds:
            rounds.append(round_)
    later = [(round_, machine.keeper.get(round_)) for round_ in machine.keeper.get_later_rounds()]
    powers = {round_: votes.sender_power for round_, votes in later if votes is not None}
    # Those nearest to f+1 come first: a round that a few faulty validators made up stays behind.
    rounds += sorted(powers, key=lambda round_: (-powers[round_], round_))
    return rounds[:STATUS_ROUNDS_MAX]


def _make_bits(machine: HeightMachine, round_: int, votes: RoundVotes) -> RoundBits:
    prevotes = votes.prevotes.compute_held_bits()
    proposal = machine.keeper.current.proposal
    if (
        proposal is not None
        and proposal.valid_round == round_
        and not votes.prevotes.has_quorum_for(proposal.block_id)
    ):
        prevotes = votes.prevotes.compute_bits_for(proposal.block_id)
    return RoundBits(
        Round(round_),
        votes.stamped is not None,
        make_bitmap(prevotes),
        make_bitmap(votes.precommits.compute_held_bits()),
    )


def _get_decided(machine: HeightMachine, status: RoundStatus) -> Iterator[Vote | Proposal]:
    """Yield what lets a peer decide this height too."""
    commit = machine.commit
    if commit is None:
        return
    bits = get_bits(status, commit.round)
    votes = machine.keeper.get(commit.round)
    if votes is not None and votes.proposal is not None and not bits.has_proposal:
        yield votes.proposal
    held = read_bitmap(bits.precommits)
    for vote in get_precommits(commit, machine.validators):
        if not held >> machine.validators.index_by_address[vote.validator] & 1:
            yield vote


def _get_undecided(machine: HeightMachine, status: RoundStatus) -> Iterator[Vote | Proposal]:
    """Yield what the peer lacks of its round, of the rounds it names, and of this node's.

    This node's round is left out when the peer is past it and does not name it: there is nothing
    that the peer could do with it, and it would be sent again at every exchange.
    """
    named = (bits.round for bits in status.rounds)
    own = (machine.round,) if machine.round > status.round else ()
    # A dict keeps the order, and each round once.
    for round_ in dict.fromkeys((status.round, *named, *own)):
        votes = machine.keeper.get(round_)
        if votes is None:
            continue
        bits = get_bits(status, round_)
        # A proposal of a past round is of no use; a commit names its block.
        if votes.proposal is not None and not bits.has_proposal and round_ >= status.round:
            yield votes.proposal
        yield from votes.prevotes.get_lacking(read_bitmap(bits.prevotes))
        yield from votes.precommits.get_lacking(read_bitmap(bits.precommits))
