"""Who signed what: the check in front of the state machine.

Owns the memory of signatures found valid. Never judges content: a valid signature under a
proposal of the wrong proposer is still valid.
"""

from typing import Protocol

from quorate.chain.errors import CommitError
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import (
    Commit,
    Proposal,
    Vote,
    is_proposal_signature_valid,
    is_vote_signature_valid,
    verify_commit,
)

VERIFIED_MESSAGES_MAX = 8192
"""How many messages found valid are remembered; the oldest goes first."""


class Verifier(Protocol):
    """What the driver asks before it counts a message."""

    def is_vote_valid(self, vote: Vote, validators: ValidatorSet) -> bool:
        """Tell whether the member of `validators` that `vote` names has signed it."""
        ...

    def is_proposal_valid(self, proposal: Proposal, validators: ValidatorSet) -> bool:
        """Tell whether the member of `validators` that `proposal` names has signed it."""
        ...

    def is_commit_valid(self, commit: Commit, validators: ValidatorSet) -> bool:
        """Tell whether a quorum of `validators` has signed what `commit` claims."""
        ...


class SignatureVerifier:
    """Checks Ed25519 signatures, each message once.

    Parameters
    ----------
    chain_id : str
        The chain that the messages are for.
    """

    def __init__(self, chain_id: str) -> None:
        self._chain_id = chain_id
        # A dict remembers the order of insertion, which makes it a queue that finds its elements.
        self._verified: dict[Vote | Proposal, None] = {}

    def is_vote_valid(self, vote: Vote, validators: ValidatorSet) -> bool:
        """Tell whether the member of `validators` that `vote` names has signed it."""
        if vote.validator not in validators.by_address:
            return False
        # An address is the hash of its key, so what was valid once is valid under every set.
        if vote in self._verified:
            return True
        is_valid = is_vote_signature_valid(self._chain_id, vote, validators)
        if is_valid:
            self._remember(vote)
        return is_valid

    def is_proposal_valid(self, proposal: Proposal, validators: ValidatorSet) -> bool:
        """Tell whether the member of `validators` that `proposal` names has signed it."""
        if proposal.proposer not in validators.by_address:
            return False
        if proposal in self._verified:
            return True
        is_valid = is_proposal_signature_valid(self._chain_id, proposal, validators)
        if is_valid:
            self._remember(proposal)
        return is_valid

    def is_commit_valid(self, commit: Commit, validators: ValidatorSet) -> bool:
        """Tell whether a quorum of `validators` has signed what `commit` claims."""
        try:
            verify_commit(self._chain_id, validators, commit.height, commit.block_id.hash, commit)
        except CommitError:
            return False
        return True

    def _remember(self, message: Vote | Proposal) -> None:
        if len(self._verified) >= VERIFIED_MESSAGES_MAX:
            del self._verified[next(iter(self._verified))]
        self._verified[message] = None
