"""The messages of one height, by round, within bounds.

Owns which rounds are kept: the current one, a window of past ones, those that the rules still
refer to, and for each validator a few later ones. Never decides what follows from the messages,
and never checks a signature.
"""

from dataclasses import dataclass

from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import Proposal, Vote, VoteType

from consensus.vote_set import Addition, VoteSet

PAST_ROUNDS_MAX = 8
"""Rounds before the current one whose votes are kept, besides those that are pinned."""
FUTURE_ROUNDS_PER_VALIDATOR_MAX = 2
"""Later rounds in which one validator's messages are kept: its newest, so that of validators
further ahead the same rounds are kept, and f+1 of them are seen together (L55)."""
PINNED_ROUNDS_MAX = 3
"""Locked round, valid round, and the valid round that the current proposal names."""


@dataclass(frozen=True, slots=True)
class StampedProposal:
    """A proposal with its timeliness, fixed when it was received."""

    proposal: Proposal
    is_timely: bool


class RoundVotes:
    """The messages of one round: votes of both types, and the first proposal of its proposer."""

    __slots__ = (
        "_proposer_index",
        "_senders",
        "_validators",
        "precommits",
        "prevotes",
        "sender_power",
        "stamped",
    )

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._proposer_index: int | None = None
        self._senders: dict[int, None] = {}
        self.sender_power = 0
        """The power of the validators that have sent any message of the round (L55)."""
        self.prevotes = VoteSet(validators)
        self.precommits = VoteSet(validators)
        self.stamped: StampedProposal | None = None

    @property
    def proposal(self) -> Proposal | None:
        """The round's proposal, if it is here."""
        return None if self.stamped is None else self.stamped.proposal

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing of the round is here."""
        return not self._senders

    def get_votes(self, type_: VoteType) -> VoteSet:
        """Return the votes of a type."""
        return self.prevotes if type_ is VoteType.PREVOTE else self.precommits

    def add_vote(self, index: int, vote: Vote) -> Addition:
        """Add a vote of the validator of this index."""
        self._add_sender(index)
        return self.get_votes(vote.type).add(index, vote)

    def add_proposal(self, index: int, stamped: StampedProposal) -> None:
        """Keep the round's proposal, by the validator of this index."""
        self._add_sender(index)
        self._proposer_index = index
        self.stamped = stamped

    def remove(self, index: int) -> None:
        """Forget the messages of a validator."""
        if index not in self._senders:
            return
        del self._senders[index]
        self.sender_power -= self._validators.validators[index].power
        self.prevotes.remove(index)
        self.precommits.remove(index)
        if self._proposer_index == index:
            self._proposer_index = None
            self.stamped = None

    def _add_sender(self, index: int) -> None:
        if index not in self._senders:
            self._senders[index] = None
            self.sender_power += self._validators.validators[index].power


class RoundKeeper:
    """The rounds of one height.

    Parameters
    ----------
    validators : ValidatorSet
        The set of the height.
    """

    __slots__ = (
        "_current",
        "_future_by_validator",
        "_pinned",
        "_reached",
        "_rounds",
        "_validators",
    )

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._current = 0
        self._pinned: tuple[int, ...] = ()
        self._rounds: dict[int, RoundVotes] = {0: RoundVotes(validators)}
        self._future_by_validator: dict[int, list[int]] = {}
        # Later rounds in which f+1 have been seen, so that nobody has to search through all.
        self._reached: list[int] = []

    @property
    def current(self) -> RoundVotes:
        """The messages of the current round."""
        return self._rounds[self._current]

    def __len__(self) -> int:
        return len(self._rounds)

    def get(self, round_: int) -> RoundVotes | None:
        """Return what is kept of a round."""
        return self._rounds.get(round_)

    def enter(self, round_: int, pinned: tuple[int, ...]) -> None:
        """Make `round_` the current one, and drop what falls out of the window."""
        self._current = round_
        self._rounds.setdefault(round_, RoundVotes(self._validators))
        for index, rounds in list(self._future_by_validator.items()):
            later = [future for future in rounds if future > round_]
            if later:
                self._future_by_validator[index] = later
            else:
                del self._future_by_validator[index]
        self._reached = [later for later in self._reached if later > round_]
        self.pin(pinned)

    def pin(self, pinned: tuple[int, ...]) -> None:
        """Keep these rounds (at most `PINNED_ROUNDS_MAX`) for as long as they are pinned."""
        self._pinned = pinned[:PINNED_ROUNDS_MAX]
        for round_ in [round_ for round_ in self._rounds if not self._is_kept(round_)]:
            del self._rounds[round_]
        for round_ in self._pinned:
            if 0 <= round_ <= self._current:
                self._rounds.setdefault(round_, RoundVotes(self._validators))

    def is_vote_wanted(self, index: int, vote: Vote) -> bool:
        """Tell whether there is a place and a use for a vote of a validator."""
        if not self._has_place(index, vote.round):
            return False
        votes = self._rounds.get(vote.round)
        return votes is None or votes.get_votes(vote.type).is_wanted(index, vote)

    def is_proposal_wanted(self, index: int, round_: int) -> bool:
        """Tell whether there is a place for the proposal of a round, which is not here yet."""
        if round_ < self._current or not self._has_place(index, round_):
            return False
        votes = self._rounds.get(round_)
        return votes is None or votes.stamped is None

    def add_vote(self, index: int, vote: Vote) -> Addition:
        """Add a vote that is wanted and whose signature is valid."""
        addition = self._open(index, vote.round).add_vote(index, vote)
        self._note_reached(vote.round)
        return addition

    def add_proposal(self, index: int, stamped: StampedProposal) -> None:
        """Keep a proposal that is wanted and whose signature is valid."""
        round_ = stamped.proposal.round
        self._open(index, round_).add_proposal(index, stamped)
        self._note_reached(round_)

    def get_later_rounds(self) -> list[int]:
        """Return the rounds after the current one of which something is here, ascending."""
        return sorted(round_ for round_ in self._rounds if round_ > self._current)

    def find_skip_round(self) -> int | None:
        """Return the highest later round in which f+1 validators have sent something (L55)."""
        return max(self._reached, default=None)

    def _is_kept(self, round_: int) -> bool:
        return round_ >= self._current - PAST_ROUNDS_MAX or round_ in self._pinned

    def _has_place(self, index: int, round_: int) -> bool:
        if round_ <= self._current:
            return self._is_kept(round_)
        rounds = self._future_by_validator.get(index, ())
        return (
            round_ in rounds
            or len(rounds) < FUTURE_ROUNDS_PER_VALIDATOR_MAX
            or round_ > min(rounds)
        )

    def _open(self, index: int, round_: int) -> RoundVotes:
        """Return the round, after making the validator's place in it."""
        if round_ > self._current:
            rounds = self._future_by_validator.setdefault(index, [])
            if round_ not in rounds:
                if len(rounds) == FUTURE_ROUNDS_PER_VALIDATOR_MAX:
                    self._forget(index, min(rounds))
                rounds.append(round_)
        votes = self._rounds.get(round_)
        if votes is None:
            votes = self._rounds[round_] = RoundVotes(self._validators)
        return votes

    def _note_reached(self, round_: int) -> None:
        if (
            round_ > self._current
            and round_ not in self._reached
            and self._validators.is_one_honest(self._rounds[round_].sender_power)
        ):
            self._reached.append(round_)

    def _forget(self, index: int, round_: int) -> None:
        self._future_by_validator[index].remove(round_)
        votes = self._rounds[round_]
        votes.remove(index)
        if round_ in self._reached and not self._validators.is_one_honest(votes.sender_power):
            self._reached.remove(round_)
        if votes.is_empty:
            del self._rounds[round_]
