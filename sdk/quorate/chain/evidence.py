"""Evidence: proof that a validator broke the rules.

Owns the type and its verification. Never punishes: the ledger does.
"""

from hashlib import sha256

from msgspec import Struct

from quorate.chain.codec import encode
from quorate.chain.errors import SignatureError
from quorate.chain.ids import Hash
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import Vote, is_vote_signature_valid

EVIDENCE_BYTES_MAX = 1024


class DuplicateVoteEvidence(
    Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=1
):
    """Two different votes of one validator for one height, round and type.

    The votes are in the order of their encodings, so that one offence has one form.
    """

    first: Vote
    second: Vote

    @property
    def hash(self) -> Hash:
        """What the evidence is known by."""
        return Hash(sha256(encode(self)).digest())


Evidence = DuplicateVoteEvidence


def make_duplicate_vote_evidence(one: Vote, other: Vote) -> DuplicateVoteEvidence:
    """Return the evidence of two conflicting votes, in canonical order."""
    first, second = sorted((one, other), key=encode)
    return DuplicateVoteEvidence(first, second)


def verify_evidence(
    chain_id: str, evidence: DuplicateVoteEvidence, validators: ValidatorSet
) -> None:
    """Check evidence against the validator set of its height.

    Raises
    ------
    SignatureError
        If the votes don't conflict, aren't in order, or either isn't signed by the validator.
    """
    one, other = evidence.first, evidence.second
    same_slot = (one.type, one.height, one.round, one.validator) == (
        other.type,
        other.height,
        other.round,
        other.validator,
    )
    if not same_slot or one.block_id == other.block_id:
        raise SignatureError("the votes of this evidence do not conflict")
    if encode(one) > encode(other):
        raise SignatureError("the votes of this evidence are not in order")
    for vote in (one, other):
        if not is_vote_signature_valid(chain_id, vote, validators):
            raise SignatureError("a vote of this evidence is not signed by its validator")
