"""The check of signatures, and a note of what it found last.

Owns the outcome of the check for the message that the driver is looking at. Never checks a
signature itself: it asks the verifier that it is given.

The driver asks for a check only when a message would change something, and then keeps the message
exactly if the check succeeds. So the note tells the consensus loop three cases apart: not looked
at (a repetition, or of a height that is no longer or not yet of use), forged, and kept.
"""

from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import Commit, Proposal, Vote

from consensus.verifier import Verifier


class NotingVerifier:
    """A verifier whose last answer can be read.

    Parameters
    ----------
    verifier : Verifier
        Does the work.

    Attributes
    ----------
    outcome : bool or None
        Whether the signature was the named validator's; None if nothing was checked since
        `forget`, or the message names nobody of the set.
    """

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self.outcome: bool | None = None

    def forget(self) -> None:
        """Begin with the next message."""
        self.outcome = None

    def is_vote_valid(self, vote: Vote, validators: ValidatorSet) -> bool:
        """Tell whether the member of `validators` that `vote` names has signed it."""
        # A validator of another height's set is a stranger here, and no forger.
        if vote.validator not in validators.by_address:
            return False
        self.outcome = self._verifier.is_vote_valid(vote, validators)
        return self.outcome

    def is_proposal_valid(self, proposal: Proposal, validators: ValidatorSet) -> bool:
        """Tell whether the member of `validators` that `proposal` names has signed it."""
        if proposal.proposer not in validators.by_address:
            return False
        self.outcome = self._verifier.is_proposal_valid(proposal, validators)
        return self.outcome

    def is_commit_valid(self, commit: Commit, validators: ValidatorSet) -> bool:
        """Tell whether a quorum of `validators` has signed what `commit` claims."""
        self.outcome = self._verifier.is_commit_valid(commit, validators)
        return self.outcome
