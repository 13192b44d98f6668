"""The votes of one round and type, and their sums.

Owns who voted for what, and which value has a quorum. Never decides what follows from it, and
never checks a signature.
"""

from dataclasses import dataclass

from quorate.chain.errors import InvariantError
from quorate.chain.ids import NO_ROUND, Height, Signature
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import BlockId, Commit, Vote


@dataclass(frozen=True, slots=True)
class Addition:
    """What became of a vote: counted or not, and the earlier vote it is the first to contradict."""

    is_counted: bool
    conflicting: Vote | None = None


class VoteSet:
    """The votes of one round and type: one for each validator, and at most one more.

    A validator's first vote counts. A later one for another value does not, with one exception:
    it counts for the *claimed* block, the one that a proposal names. Without it, a validator that
    shows one vote to some and another vote to others could hide a polka for ever from those who
    saw the wrong vote first. Algorithm 1 counts messages, so counting both is as safe as in its
    proof; and with one claimed block at a time, no validator fills more than two places.

    Parameters
    ----------
    validators : ValidatorSet
        The set of the height; votes are known by their index in it.
    """

    __slots__ = (
        "_claim",
        "_claimed",
        "_equivocators",
        "_first",
        "_power",
        "_powers",
        "_quorum",
        "_validators",
    )

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._first: dict[int, Vote] = {}
        self._claim: BlockId | None = None
        # The second votes of validators that voted first for something else than the claim.
        self._claimed: dict[int, Vote] = {}
        self._equivocators: dict[int, None] = {}
        self._power = 0
        self._powers: dict[BlockId | None, int] = {}
        # A value in a tuple, since nil is a value too.
        self._quorum: tuple[BlockId | None] | None = None

    def __len__(self) -> int:
        return len(self._first) + len(self._claimed)

    @property
    def has_any_quorum(self) -> bool:
        """Tell whether validators with a quorum of the power have voted, for whatever."""
        return self._validators.is_quorum(self._power)

    @property
    def has_nil_quorum(self) -> bool:
        """Tell whether a quorum has voted nil."""
        return self._quorum == (None,)

    @property
    def quorum_block(self) -> BlockId | None:
        """The block that a quorum has voted for, if there is one."""
        return None if self._quorum is None else self._quorum[0]

    def is_wanted(self, index: int, vote: Vote) -> bool:
        """Tell whether `vote` would be counted, or would prove an offence not yet known."""
        first = self._first.get(index)
        if first is None:
            return True
        if first.block_id == vote.block_id:
            return False
        return index not in self._equivocators or self._is_claimable(index, vote)

    def add(self, index: int, vote: Vote) -> Addition:
        """Add a vote whose signature is valid."""
        first = self._first.get(index)
        if first is None:
            self._first[index] = vote
            self._power += self._validators.validators[index].power
            self._add_power(index, vote.block_id)
            return Addition(is_counted=True)
        if first.block_id == vote.block_id:
            return Addition(is_counted=False)
        conflicting = None if index in self._equivocators else first
        self._equivocators[index] = None
        if not self._is_claimable(index, vote):
            return Addition(is_counted=False, conflicting=conflicting)
        self._claimed[index] = vote
        self._add_power(index, vote.block_id)
        return Addition(is_counted=True, conflicting=conflicting)

    def claim(self, block_id: BlockId) -> None:
        """Let second votes count for `block_id`, and no more for the block claimed before.

        Once a value has a quorum, no other can have one, and the claim stays.
        """
        if self._quorum is not None or block_id == self._claim:
            return
        for index, vote in self._claimed.items():
            self._subtract_power(index, vote.block_id)
        self._claimed.clear()
        self._claim = block_id

    def remove(self, index: int) -> None:
        """Forget the votes of a validator, whose place is needed for a later round."""
        first = self._first.pop(index, None)
        if first is None:
            return
        self._power -= self._validators.validators[index].power
        self._subtract_power(index, first.block_id)
        second = self._claimed.pop(index, None)
        if second is not None:
            self._subtract_power(index, second.block_id)
        self._equivocators.pop(index, None)
        if self._quorum is not None and not self._is_quorum_for(self._quorum[0]):
            self._quorum = None

    def has_quorum_for(self, block_id: BlockId) -> bool:
        """Tell whether a quorum has voted for `block_id`."""
        return self._quorum == (block_id,)

    def has_vote_of(self, index: int) -> bool:
        """Tell whether the validator has voted."""
        return index in self._first

    def compute_held_bits(self) -> int:
        """Return the bitmap of validators of whom no further vote is of use.

        One that is known to have voted twice, but whose vote for the claimed block is not here,
        stays out of it, so that peers send what they hold.
        """
        bits = 0
        for index, vote in self._first.items():
            is_open = (
                self._quorum is None
                and self._claim is not None
                and index in self._equivocators
                and vote.block_id != self._claim
                and index not in self._claimed
            )
            bits |= 0 if is_open else 1 << index
        return bits

    def compute_bits_for(self, block_id: BlockId) -> int:
        """Return the bitmap of validators whose vote for `block_id` is here."""
        bits = 0
        for votes in (self._first, self._claimed):
            for index, vote in votes.items():
                bits |= 1 << index if vote.block_id == block_id else 0
        return bits

    def get_lacking(self, held_bits: int) -> list[Vote]:
        """Return a vote of each validator that is not in a peer's bitmap.

        Votes for the value with a quorum, or else for the claimed block, come first, so that a
        peer that can take only a few gets those that let it move; then by validator.
        """
        indexes = sorted(index for index in self._first if not held_bits >> index & 1)
        votes = [self._claimed.get(index, self._first[index]) for index in indexes]
        if self._quorum is None and self._claim is None:
            return votes
        favored = self._claim if self._quorum is None else self._quorum[0]
        return sorted(votes, key=lambda vote: vote.block_id != favored)

    def make_commit(self, block_id: BlockId) -> Commit:
        """Return the proof that these precommits, a quorum for `block_id`, make."""
        signatures = [Signature(b"")] * len(self._validators)
        height, round_ = Height(0), NO_ROUND
        for votes in (self._first, self._claimed):
            for index, vote in votes.items():
                if vote.block_id == block_id:
                    signatures[index] = vote.signature
                    height, round_ = vote.height, vote.round
        if not self.has_quorum_for(block_id):
            raise InvariantError("a commit was asked for without a quorum")
        return Commit(height, round_, block_id, tuple(signatures))

    def _is_claimable(self, index: int, vote: Vote) -> bool:
        return (
            vote.block_id is not None
            and vote.block_id == self._claim
            and index not in self._claimed
        )

    def _is_quorum_for(self, block_id: BlockId | None) -> bool:
        return self._validators.is_quorum(self._powers.get(block_id, 0))

    def _add_power(self, index: int, block_id: BlockId | None) -> None:
        power = self._powers.get(block_id, 0) + self._validators.validators[index].power
        self._powers[block_id] = power
        if self._quorum is None and self._validators.is_quorum(power):
            self._quorum = (block_id,)

    def _subtract_power(self, index: int, block_id: BlockId | None) -> None:
        power = self._powers[block_id] - self._validators.validators[index].power
        if power:
            self._powers[block_id] = power
        else:
            del self._powers[block_id]
