"""Block identities, proposals, votes and commits.

Owns their types, sign-bytes and verification. Never counts votes for a running round (consensus
does) and holds no keys: whoever signs, signs the bytes given here.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct

from quorate.chain.codec import encode
from quorate.chain.errors import CommitError
from quorate.chain.ids import (
    SIGNATURE_BYTES,
    Hash,
    Signature,
    Uint64,
    ValidRound,
    WireAddress,
    WireHash,
    WireHeight,
    WireRound,
    WireSignature,
)
from quorate.chain.keys import Domain, is_signature_valid
from quorate.chain.validators import VALIDATORS_MAX, ValidatorSet


class VoteType(IntEnum):
    """The two kinds of votes."""

    PREVOTE = 1
    PRECOMMIT = 2


class BlockId(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Names a block: the hash of its header, and how to fetch it (count and root of parts)."""

    hash: WireHash
    part_count: Annotated[int, Meta(ge=1, le=256)]
    parts_root: WireHash


class Proposal(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """<PROPOSAL, h, r, v, vr> of Algorithm 1, naming v by its block id.

    `time_ms` repeats the block's time, so that timeliness is known at receipt (proposer-based
    timestamps); the verdict on the block checks that they agree.
    """

    height: WireHeight
    round: WireRound
    valid_round: ValidRound
    block_id: BlockId
    time_ms: Uint64
    proposer: WireAddress
    signature: WireSignature


class Vote(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """<PREVOTE or PRECOMMIT, h, r, id(v) or nil> of Algorithm 1. It carries no time."""

    type: VoteType
    height: WireHeight
    round: WireRound
    block_id: BlockId | None
    validator: WireAddress
    signature: WireSignature


COMMIT_SIGNATURE_BYTES = SIGNATURE_BYTES + 2
"""What each signature takes in an encoded commit, at most."""
COMMIT_BYTES_MAX = 256 + VALIDATORS_MAX * COMMIT_SIGNATURE_BYTES
"""The longest encoded commit."""

CommitSignature = Annotated[Signature, Meta(max_length=SIGNATURE_BYTES)]


class Commit(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Proof of a decision: precommits of one round for one block.

    `signatures[i]` is that of the i-th validator of the height's set, or empty when it is not
    part of the proof.
    """

    height: WireHeight
    round: WireRound
    block_id: BlockId
    signatures: Annotated[
        tuple[CommitSignature, ...], Meta(min_length=1, max_length=VALIDATORS_MAX)
    ]


def compute_proposal_sign_bytes(chain_id: str, proposal: Proposal) -> bytes:
    """Return what a proposer signs (domain `proposal`)."""
    return encode(
        (
            chain_id,
            proposal.height,
            proposal.round,
            proposal.valid_round,
            proposal.block_id,
            proposal.time_ms,
        )
    )


def compute_vote_sign_bytes(
    chain_id: str, type_: VoteType, height: int, round_: int, block_id: BlockId | None
) -> bytes:
    """Return what a validator signs (domain `vote`)."""
    return encode((chain_id, type_, height, round_, block_id))


def is_vote_signature_valid(chain_id: str, vote: Vote, validators: ValidatorSet) -> bool:
    """Tell whether `vote` is signed by the member of `validators` it names."""
    validator = validators.by_address.get(vote.validator)
    return validator is not None and is_signature_valid(
        validator.public_key,
        Domain.VOTE,
        compute_vote_sign_bytes(chain_id, vote.type, vote.height, vote.round, vote.block_id),
        vote.signature,
    )


def is_proposal_signature_valid(
    chain_id: str, proposal: Proposal, validators: ValidatorSet
) -> bool:
    """Tell whether `proposal` is signed by the member of `validators` it names."""
    validator = validators.by_address.get(proposal.proposer)
    return validator is not None and is_signature_valid(
        validator.public_key,
        Domain.PROPOSAL,
        compute_proposal_sign_bytes(chain_id, proposal),
        proposal.signature,
    )


def get_precommits(commit: Commit, validators: ValidatorSet) -> tuple[Vote, ...]:
    """Return the votes that a commit stands for, in the order of the set."""
    return tuple(
        Vote(
            VoteType.PRECOMMIT,
            commit.height,
            commit.round,
            commit.block_id,
            validator.address,
            signature,
        )
        for validator, signature in zip(validators.validators, commit.signatures, strict=True)
        if signature
    )


def verify_commit(
    chain_id: str, validators: ValidatorSet, height: int, block_hash: Hash, commit: Commit
) -> None:
    """Check that a quorum of `validators` precommitted a block; every signature is checked.

    Parameters
    ----------
    chain_id : str
        The chain the votes are for.
    validators : ValidatorSet
        The set of that height.
    height : int
        The block's height.
    block_hash : bytes, 32
        The hash of the block's header.
    commit : Commit
        The claimed proof.

    Raises
    ------
    CommitError
        If it is for another height or block, has another number of signatures than the set has
        members, any signature is wrong, or the power is not more than two thirds.
    """
    _validate_commit_target(height, block_hash, commit)
    if len(commit.signatures) != len(validators):
        raise CommitError(
            f"commit has {len(commit.signatures)} signatures for {len(validators)} validators"
        )
    message = compute_vote_sign_bytes(
        chain_id, VoteType.PRECOMMIT, commit.height, commit.round, commit.block_id
    )
    power = 0
    for validator, signature in zip(validators.validators, commit.signatures, strict=True):
        if not signature:
            continue
        if not is_signature_valid(validator.public_key, Domain.VOTE, message, signature):
            raise CommitError(f"wrong signature of validator {validator.address.hex()} in commit")
        power += validator.power
    if not validators.is_quorum(power):
        raise CommitError(
            f"commit has power {power}, needs more than two thirds of {validators.total_power}"
        )


def verify_commit_trusting(
    chain_id: str,
    signers: ValidatorSet,
    trusted: ValidatorSet,
    height: int,
    block_hash: Hash,
    commit: Commit,
) -> None:
    """Check a commit by a set one trusts already, for example that of the genesis file.

    `signers`, the set of the block's height, may differ from `trusted` in priorities, powers and
    members: the commit must be one of `signers`, and validators with more than two thirds of the
    *trusted* power must be among those who signed.

    Raises
    ------
    CommitError
        As `verify_commit`, or if the trusted validators among the signers have too little power.
    """
    verify_commit(chain_id, signers, height, block_hash, commit)
    power = 0
    for validator, signature in zip(signers.validators, commit.signatures, strict=True):
        known = trusted.by_address.get(validator.address)
        if signature and known is not None:
            power += known.power
    if not trusted.is_quorum(power):
        raise CommitError(
            f"trusted validators with power {power} of {trusted.total_power} signed the commit; "
            "more than two thirds are needed"
        )


def _validate_commit_target(height: int, block_hash: Hash, commit: Commit) -> None:
    if commit.height != height:
        raise CommitError(f"commit is for height {commit.height}, not {height}")
    if commit.block_id.hash != block_hash:
        raise CommitError(
            f"commit is for block {commit.block_id.hash.hex()}, not {block_hash.hex()}"
        )
