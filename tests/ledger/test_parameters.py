"""Changes of the consensus parameters, and offences."""

import pytest
from quorate.chain.errors import BlockError, ErrorCode
from quorate.chain.evidence import DuplicateVoteEvidence, make_duplicate_vote_evidence
from quorate.chain.genesis import Admission, GenesisMember
from quorate.chain.ids import Hash, Height, Round, Signature
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.transaction import (
    Approval,
    ChangeParameters,
    Role,
    SignedTransaction,
    compute_approval_bytes,
)
from quorate.chain.vote import BlockId, Vote, VoteType

from ledger.execution import BlockExecution
from ledger.offences import is_offence_recorded
from tests.ledger.chain import AUTHORITY, CHAIN_ID, STRANGER, VALIDATORS, Chain

NEW = ConsensusParameters(precision_ms=501)
NEWER = ConsensusParameters(precision_ms=502)


def make_change(
    chain: Chain,
    parameters: ConsensusParameters,
    *approvers: PrivateKey,
    replaces: Hash | None = None,
    sequence: int | None = None,
) -> ChangeParameters:
    known = chain.state.get_parameters_record()
    bare = ChangeParameters(
        parameters,
        known.parameters.root if replaces is None else replaces,
        known.change_count if sequence is None else sequence,
        (),
    )
    message = compute_approval_bytes(CHAIN_ID, bare)
    approvals = tuple(
        Approval(key.address, key.sign(Domain.PARAMETERS, message)) for key in approvers
    )
    return ChangeParameters(bare.parameters, bare.replaces, bare.sequence, approvals)


def test_more_than_two_thirds_change_the_parameters_of_the_next_height() -> None:
    chain = Chain(powers=(1, 1, 1))
    change = chain.sign(AUTHORITY, make_change(chain, NEW, *VALIDATORS[:3]))
    result = chain.run_block(change)
    assert result.parameters == NEW == chain.state.parameters
    assert chain.run_block().parameters == NEW


def test_exactly_two_thirds_are_not_enough() -> None:
    chain = Chain(powers=(1, 1, 1))
    change = chain.sign(AUTHORITY, make_change(chain, NEW, *VALIDATORS[:2]))
    chain.assert_refused(change, ErrorCode.INSUFFICIENT_APPROVAL, "2 of 3 power approve")


def test_power_counts_and_not_heads() -> None:
    chain = Chain(powers=(5, 1, 1, 1))
    few = chain.sign(AUTHORITY, make_change(chain, NEW, *VALIDATORS[1:]))
    chain.assert_refused(few, ErrorCode.INSUFFICIENT_APPROVAL, "3 of 8 power")
    chain.run_block(chain.sign(AUTHORITY, make_change(chain, NEW, VALIDATORS[0], VALIDATORS[3])))


def test_a_validator_counts_once_and_a_stranger_not_at_all() -> None:
    chain = Chain(powers=(1, 1, 1))
    twice = make_change(chain, NEW, VALIDATORS[0], VALIDATORS[1], VALIDATORS[1], STRANGER)
    signed = chain.sign(AUTHORITY, twice)
    chain.assert_refused(signed, ErrorCode.INSUFFICIENT_APPROVAL, "2 of 3 power")


def test_an_approval_is_a_signature_of_this_very_change() -> None:
    chain = Chain(powers=(1, 1, 1))
    change = make_change(chain, NEW, *VALIDATORS[:3])
    other = ChangeParameters(NEWER, change.replaces, change.sequence, change.approvals)
    signed = chain.sign(AUTHORITY, other)
    chain.assert_refused(signed, ErrorCode.BAD_SIGNATURE, "collect it again")


def test_a_change_replaces_what_is_in_force() -> None:
    chain = Chain()
    stale = make_change(chain, NEW, *VALIDATORS, replaces=NEWER.root)
    chain.assert_refused(
        chain.sign(AUTHORITY, stale), ErrorCode.INVALID_PARAMETERS, "approve a change of these"
    )
    same = make_change(chain, chain.state.parameters, *VALIDATORS)
    chain.assert_refused(
        chain.sign(AUTHORITY, same), ErrorCode.INVALID_PARAMETERS, "changes nothing"
    )


def test_an_approval_serves_once_even_when_old_parameters_return() -> None:
    chain = Chain()
    first = chain.state.parameters
    forth = make_change(chain, NEW, *VALIDATORS)
    words = "approve a change of these"

    def replay(ahead: int = 0) -> SignedTransaction:
        return chain.sign(STRANGER, forth, ahead=ahead)

    chain.assert_refused(
        replay(1), ErrorCode.INVALID_PARAMETERS, words, chain.sign(STRANGER, forth)
    )
    chain.run_block(chain.sign(AUTHORITY, forth))
    chain.assert_refused(replay(), ErrorCode.INVALID_PARAMETERS, words)
    chain.run_block(chain.sign(AUTHORITY, make_change(chain, first, *VALIDATORS)))
    assert chain.state.parameters == first
    chain.assert_refused(replay(), ErrorCode.INVALID_PARAMETERS, words)


def test_two_changes_in_a_block_follow_each_other() -> None:
    chain = Chain()
    one = make_change(chain, NEW, *VALIDATORS)
    two = make_change(chain, NEWER, *VALIDATORS, replaces=NEW.root, sequence=1)
    result = chain.run_block(chain.sign(AUTHORITY, one), chain.sign(AUTHORITY, two, ahead=1))
    assert result.parameters == NEWER


def test_on_a_permissioned_chain_members_and_validators_carry_changes() -> None:
    member = GenesisMember(AUTHORITY.public_key, "lab", Role.MODEL_USER)
    chain = Chain(admission=Admission.PERMISSIONED, members=[member])
    change = make_change(chain, NEW, *VALIDATORS)
    stranger = chain.sign(STRANGER, change)
    chain.assert_refused(stranger, ErrorCode.NOT_ADMITTED, "no member")
    chain.ask_door(chain.sign(AUTHORITY, change))
    chain.run_block(chain.sign(VALIDATORS[2], change))


# --- offences -------------------------------------------------------------------------------------


def make_evidence(*names: bytes, height: int = 1, round_: int = 0) -> DuplicateVoteEvidence:
    one, other = (
        Vote(
            VoteType.PREVOTE,
            Height(height),
            Round(round_),
            BlockId(Hash(name * 32), 1, Hash(name * 32)),
            VALIDATORS[0].address,
            Signature(bytes(64)),
        )
        for name in names
    )
    return make_duplicate_vote_evidence(one, other)


def test_an_offence_is_recorded_once_whatever_its_evidence() -> None:
    chain = Chain()
    evidence = make_evidence(b"a", b"b")
    assert not is_offence_recorded(chain.state, evidence)
    before = chain.state.root
    chain.run_block(evidence=(evidence,))
    assert chain.state.root != before
    for again in (evidence, make_evidence(b"a", b"c")):
        assert is_offence_recorded(chain.state, again)
        with pytest.raises(BlockError, match="is recorded already"):
            chain.begin(chain.make_context(evidence=(again,)))
    other = make_evidence(b"a", b"b", round_=1)
    assert not is_offence_recorded(chain.state, other)
    chain.run_block(evidence=(other, make_evidence(b"a", b"b", height=2)))


def test_an_offence_is_not_twice_in_a_block() -> None:
    chain = Chain()
    context = chain.make_context(evidence=(make_evidence(b"a", b"b"), make_evidence(b"c", b"d")))
    with pytest.raises(BlockError, match="is recorded already"):
        BlockExecution(chain.state, context, chain.payloads, chain.aggregates)
