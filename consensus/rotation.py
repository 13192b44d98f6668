"""Who proposes in which round of a height.

Owns the sets of the rounds in a window, so that a round is reached by single turns from the last
one and never from the beginning. Never knows the rule of rotation: the validator set does.
"""

from quorate.chain.ids import Address
from quorate.chain.validators import ValidatorSet

from consensus.round_votes import PAST_ROUNDS_MAX

PROPOSAL_ROUNDS_AHEAD_MAX = 16
"""How far beyond the current round a proposer is worked out."""


class Rotation:
    """The proposers of the rounds around the current one.

    Parameters
    ----------
    validators : ValidatorSet
        The set of the height, as it stands for round 0.
    """

    __slots__ = ("_current", "_sets")

    def __init__(self, validators: ValidatorSet) -> None:
        self._current = 0
        self._sets: dict[int, ValidatorSet] = {0: validators}

    def __len__(self) -> int:
        return len(self._sets)

    def enter(self, round_: int) -> None:
        """Move the window to a round at or after the current one."""
        highest = max(self._sets)
        turned = self._sets[highest]
        for later in range(highest + 1, round_ + 1):
            turned = turned.advance(1)
            self._sets[later] = turned
            self._sets.pop(later - PAST_ROUNDS_MAX - PROPOSAL_ROUNDS_AHEAD_MAX - 1, None)
        self._current = round_
        for past in [past for past in self._sets if past < round_ - PAST_ROUNDS_MAX]:
            del self._sets[past]

    def get_proposer(self, round_: int) -> Address | None:
        """Return the proposer of a round, or None when the round is outside of the window."""
        if round_ > self._current + PROPOSAL_ROUNDS_AHEAD_MAX:
            return None
        for later in range(max(self._sets) + 1, round_ + 1):
            self._sets[later] = self._sets[later - 1].advance(1)
        turned = self._sets.get(round_)
        return None if turned is None else turned.proposer.address
