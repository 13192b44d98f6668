"""Votes, commits and evidence: what proves a decision, and what proves an offence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.codec import encode
from quorate.chain.errors import CommitError, SignatureError
from quorate.chain.evidence import (
    EVIDENCE_BYTES_MAX,
    DuplicateVoteEvidence,
    make_duplicate_vote_evidence,
    verify_evidence,
)
from quorate.chain.ids import Hash, Round
from quorate.chain.keys import Domain
from quorate.chain.vote import (
    BlockId,
    Commit,
    Proposal,
    Vote,
    VoteType,
    compute_proposal_sign_bytes,
    compute_vote_sign_bytes,
    get_precommits,
    is_proposal_signature_valid,
    is_vote_signature_valid,
    verify_commit,
    verify_commit_trusting,
)

from tests.chain.samples import (
    BLOCK_ID,
    CHAIN_ID,
    COMMIT,
    KEYS,
    PROPOSAL,
    VALIDATORS,
    make_commit,
    make_evidence,
    make_hash,
    make_validators,
    make_vote,
)

OTHER_ID = BlockId(make_hash("other"), 3, make_hash("parts"))


def check(commit: Commit, *, chain_id: str = CHAIN_ID, height: int = 7) -> None:
    verify_commit(chain_id, VALIDATORS, height, BLOCK_ID.hash, commit)


# --- votes and proposals -------------------------------------------------------------------------


def test_a_vote_is_bound_to_everything_it_says() -> None:
    vote = make_vote(KEYS[0], BLOCK_ID)
    assert is_vote_signature_valid(CHAIN_ID, vote, VALIDATORS)
    assert not is_vote_signature_valid("samples-2", vote, VALIDATORS)
    altered = [
        Vote(VoteType.PREVOTE, *encode_fields(vote)[1:]),
        Vote(vote.type, 8, *encode_fields(vote)[2:]),  # type: ignore[arg-type]
        Vote(vote.type, vote.height, Round(1), vote.block_id, vote.validator, vote.signature),
        Vote(vote.type, vote.height, vote.round, None, vote.validator, vote.signature),
        Vote(vote.type, vote.height, vote.round, OTHER_ID, vote.validator, vote.signature),
        Vote(vote.type, vote.height, vote.round, BLOCK_ID, KEYS[1].address, vote.signature),
    ]
    for wrong in altered:
        assert not is_vote_signature_valid(CHAIN_ID, wrong, VALIDATORS)


def encode_fields(vote: Vote) -> tuple:  # type: ignore[type-arg]
    return tuple(getattr(vote, name) for name in vote.__struct_fields__)


def test_a_vote_of_a_stranger_is_no_vote() -> None:
    assert not is_vote_signature_valid(CHAIN_ID, make_vote(KEYS[4], BLOCK_ID), VALIDATORS)


def test_a_proposal_is_bound_to_everything_it_says() -> None:
    assert is_proposal_signature_valid(CHAIN_ID, PROPOSAL, VALIDATORS)
    assert not is_proposal_signature_valid("samples-2", PROPOSAL, VALIDATORS)
    fields = {name: getattr(PROPOSAL, name) for name in PROPOSAL.__struct_fields__}
    for change in (
        {"height": 8},
        {"round": 3},
        {"valid_round": 0},
        {"block_id": OTHER_ID},
        {"time_ms": PROPOSAL.time_ms + 1},
        {"proposer": KEYS[1].address},
        {"proposer": KEYS[4].address},
        {"signature": KEYS[1].sign(Domain.PROPOSAL, b"")},
    ):
        altered = Proposal(**{**fields, **change})
        assert not is_proposal_signature_valid(CHAIN_ID, altered, VALIDATORS)
    as_vote = KEYS[0].sign(Domain.VOTE, compute_proposal_sign_bytes(CHAIN_ID, PROPOSAL))
    altered = Proposal(**{**fields, "signature": as_vote})
    assert not is_proposal_signature_valid(CHAIN_ID, altered, VALIDATORS)


def test_sign_bytes_carry_no_time_and_name_the_chain() -> None:
    bytes_ = compute_vote_sign_bytes(CHAIN_ID, VoteType.PREVOTE, 7, 0, None)
    assert bytes_ == encode((CHAIN_ID, 1, 7, 0, None))


# --- commits -------------------------------------------------------------------------------------


def test_a_commit_stands_for_the_votes_in_it() -> None:
    check(COMMIT)
    votes = get_precommits(COMMIT, VALIDATORS)
    assert [vote.validator for vote in votes] == [
        v.address for v in VALIDATORS.validators if v.address != KEYS[0].address
    ]
    assert all(is_vote_signature_valid(CHAIN_ID, vote, VALIDATORS) for vote in votes)


def test_a_commit_for_anything_else_is_refused() -> None:
    with pytest.raises(CommitError, match="for height 7, not 8"):
        check(COMMIT, height=8)
    with pytest.raises(CommitError, match="commit is for block"):
        verify_commit(CHAIN_ID, VALIDATORS, 7, OTHER_ID.hash, COMMIT)
    with pytest.raises(CommitError, match="wrong signature"):
        check(COMMIT, chain_id="samples-2")
    for field, wrong in (("round", 1), ("block_id", BlockId(BLOCK_ID.hash, 4, make_hash("x")))):
        fields = {name: getattr(COMMIT, name) for name in COMMIT.__struct_fields__}
        with pytest.raises(CommitError, match="wrong signature"):
            check(Commit(**{**fields, field: wrong}))


def test_a_commit_of_another_set_size_is_refused() -> None:
    for signatures in (COMMIT.signatures[:3], (*COMMIT.signatures, b"")):
        with pytest.raises(CommitError, match=r"signatures for 4 validators"):
            check(Commit(COMMIT.height, COMMIT.round, COMMIT.block_id, signatures))


def test_every_signature_is_checked_even_beyond_a_quorum() -> None:
    full = make_commit(VALIDATORS, BLOCK_ID)
    check(full)
    for place in range(4):
        signatures = list(full.signatures)
        signatures[place] = signatures[place][:-1] + bytes([signatures[place][-1] ^ 1])
        with pytest.raises(CommitError, match="wrong signature"):
            check(Commit(full.height, full.round, full.block_id, tuple(signatures)))


def test_signatures_stand_in_the_place_of_their_validator() -> None:
    full = make_commit(VALIDATORS, BLOCK_ID)
    swapped = (full.signatures[1], full.signatures[0], *full.signatures[2:])
    with pytest.raises(CommitError, match="wrong signature of validator"):
        check(Commit(full.height, full.round, full.block_id, swapped))


def test_prevotes_make_no_commit() -> None:
    message = compute_vote_sign_bytes(CHAIN_ID, VoteType.PREVOTE, 7, 0, BLOCK_ID)
    by_address = {key.address: key for key in KEYS}
    signatures = tuple(
        by_address[v.address].sign(Domain.VOTE, message) for v in VALIDATORS.validators
    )
    with pytest.raises(CommitError, match="wrong signature"):
        check(Commit(COMMIT.height, COMMIT.round, BLOCK_ID, signatures))


@given(
    powers=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    signing=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_more_than_two_thirds_is_exact(powers: list[int], signing: list[bool]) -> None:
    validators = make_validators(tuple(powers))
    signers = tuple(key for key, signs in zip(KEYS, signing, strict=True) if signs)
    commit = make_commit(validators, BLOCK_ID, signers=signers)
    power = sum(p for p, signs in zip(powers, signing, strict=False) if signs)
    if 3 * power > 2 * sum(powers):
        verify_commit(CHAIN_ID, validators, 7, BLOCK_ID.hash, commit)
    else:
        with pytest.raises(CommitError, match="needs more than two thirds"):
            verify_commit(CHAIN_ID, validators, 7, BLOCK_ID.hash, commit)


def test_exactly_two_thirds_is_too_little() -> None:
    validators = make_validators((10, 10, 10))
    commit = make_commit(validators, BLOCK_ID, signers=KEYS[:2])
    with pytest.raises(CommitError, match="power 20, needs more than two thirds of 30"):
        verify_commit(CHAIN_ID, validators, 7, BLOCK_ID.hash, commit)


# --- trusting an earlier set ---------------------------------------------------------------------


def trusting(signers: tuple[int, ...], trusted: tuple[int, ...]) -> None:
    """Powers by key: those of the block's height, which all sign, and those that are trusted."""
    now = make_validators(signers)
    commit = make_commit(now, BLOCK_ID)
    past = make_validators(trusted).advance(5)
    verify_commit_trusting(CHAIN_ID, now, past, 7, BLOCK_ID.hash, commit)


def test_trusted_power_counts_as_it_was() -> None:
    trusting((10, 10, 10, 10), (10, 10, 10, 10))
    trusting((1, 1, 1, 40), (10, 10, 10, 10))  # Powers changed, the people are the same.
    trusting((10, 10, 10, 10, 10), (10, 10, 10, 10))  # Somebody joined.


def test_too_little_trusted_power_is_refused() -> None:
    trusted = make_validators((10, 10, 10, 10, 10))
    now = make_validators((10, 10, 10))
    commit = make_commit(now, BLOCK_ID)
    verify_commit(CHAIN_ID, now, 7, BLOCK_ID.hash, commit)
    with pytest.raises(CommitError, match="trusted validators with power 30 of 50"):
        verify_commit_trusting(CHAIN_ID, now, trusted, 7, BLOCK_ID.hash, commit)


def test_exactly_two_thirds_of_the_trusted_power_is_too_little() -> None:
    now = make_validators((10, 10))
    commit = make_commit(now, BLOCK_ID)
    trusted = make_validators((10, 10, 10))
    with pytest.raises(CommitError, match="trusted validators with power 20 of 30"):
        verify_commit_trusting(CHAIN_ID, now, trusted, 7, BLOCK_ID.hash, commit)


def test_power_gained_since_is_not_trusted() -> None:
    with pytest.raises(CommitError, match="trusted validators with power 20 of 40"):
        trusting((40, 40), (10, 10, 10, 10))


def test_trusted_validators_who_did_not_sign_do_not_count() -> None:
    # The set names the trusted four, but a newcomer with much power signed nearly alone.
    now = make_validators((10, 10, 10, 10, 200))
    commit = make_commit(now, BLOCK_ID, signers=KEYS[2:])
    verify_commit(CHAIN_ID, now, 7, BLOCK_ID.hash, commit)
    with pytest.raises(CommitError, match="trusted validators with power 20 of 40"):
        verify_commit_trusting(
            CHAIN_ID, now, make_validators((10, 10, 10, 10)), 7, BLOCK_ID.hash, commit
        )


def test_a_commit_must_also_be_one_of_its_own_set() -> None:
    now = make_validators((10, 10, 10, 10, 200))
    commit = make_commit(now, BLOCK_ID, signers=KEYS[:4])
    with pytest.raises(CommitError, match="needs more than two thirds of 240"):
        verify_commit_trusting(
            CHAIN_ID, now, make_validators((10, 10, 10, 10)), 7, BLOCK_ID.hash, commit
        )


# --- evidence ------------------------------------------------------------------------------------


def test_evidence_has_one_form() -> None:
    one, other = make_vote(KEYS[2], BLOCK_ID), make_vote(KEYS[2], OTHER_ID)
    evidence = make_duplicate_vote_evidence(one, other)
    assert evidence == make_duplicate_vote_evidence(other, one)
    assert len(encode(evidence)) <= EVIDENCE_BYTES_MAX
    verify_evidence(CHAIN_ID, evidence, VALIDATORS)
    swapped = DuplicateVoteEvidence(evidence.second, evidence.first)
    assert swapped.hash != evidence.hash
    with pytest.raises(SignatureError, match="not in order"):
        verify_evidence(CHAIN_ID, swapped, VALIDATORS)


def test_nil_and_a_block_conflict_too() -> None:
    verify_evidence(CHAIN_ID, make_evidence(), VALIDATORS)


@pytest.mark.parametrize(
    "other",
    [
        make_vote(KEYS[2], BLOCK_ID),
        make_vote(KEYS[2], OTHER_ID, type_=VoteType.PREVOTE),
        make_vote(KEYS[2], OTHER_ID, height=8),
        make_vote(KEYS[2], OTHER_ID, round_=1),
        make_vote(KEYS[3], OTHER_ID),
    ],
    ids=["same block", "type", "height", "round", "validator"],
)
def test_votes_that_do_not_conflict_are_no_evidence(other: Vote) -> None:
    evidence = make_duplicate_vote_evidence(make_vote(KEYS[2], BLOCK_ID), other)
    with pytest.raises(SignatureError, match="do not conflict"):
        verify_evidence(CHAIN_ID, evidence, VALIDATORS)


def test_forged_evidence_is_refused() -> None:
    one = make_vote(KEYS[2], BLOCK_ID)
    forged = Vote(one.type, one.height, one.round, OTHER_ID, one.validator, one.signature)
    with pytest.raises(SignatureError, match="not signed by its validator"):
        verify_evidence(CHAIN_ID, make_duplicate_vote_evidence(one, forged), VALIDATORS)
    with pytest.raises(SignatureError, match="not signed by its validator"):
        verify_evidence("samples-2", make_evidence(), VALIDATORS)
    stranger = make_duplicate_vote_evidence(
        make_vote(KEYS[4], BLOCK_ID), make_vote(KEYS[4], OTHER_ID)
    )
    with pytest.raises(SignatureError, match="not signed by its validator"):
        verify_evidence(CHAIN_ID, stranger, VALIDATORS)


def test_two_parts_roots_of_one_header_conflict() -> None:
    other = BlockId(BLOCK_ID.hash, 4, Hash(make_hash("other parts")))
    evidence = make_duplicate_vote_evidence(make_vote(KEYS[2], BLOCK_ID), make_vote(KEYS[2], other))
    verify_evidence(CHAIN_ID, evidence, VALIDATORS)
