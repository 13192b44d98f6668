"""Faults of others in the proof of a decision; sources in docs/known_faults.md."""

import pytest
from msgspec.structs import replace
from quorate.chain.errors import BlockError, CommitError
from quorate.chain.ids import Height, Signature
from quorate.chain.transaction import Transfer
from quorate.chain.vote import BlockId, Commit, Proposal, Vote, VoteType, verify_commit

from tests.node.cluster import CHAIN_ID, USERS
from tests.node.execution.chain import (
    VALIDATORS,
    ExecutionChain,
    make_commit,
    rebuild,
    sign_vote,
)

HEIGHT = 1
OURS = BlockId(bytes([1]) * 32, 1, bytes([2]) * 32)  # type: ignore[arg-type]
OTHER = BlockId(bytes([3]) * 32, 1, bytes([4]) * 32)  # type: ignore[arg-type]


def make_proof(chain: ExecutionChain) -> Commit:
    return make_commit(chain.executor.position.validators, VALIDATORS, HEIGHT, OURS)


def put(commit: Commit, index: int, signature: Signature) -> Commit:
    signatures = list(commit.signatures)
    signatures[index] = signature
    return replace(commit, signatures=tuple(signatures))


def find_key(chain: ExecutionChain, index: int) -> int:
    address = chain.executor.position.validators.validators[index].address
    return [key.address for key in VALIDATORS].index(address)


def check(chain: ExecutionChain, commit: Commit) -> None:
    verify_commit(CHAIN_ID, chain.executor.position.validators, HEIGHT, OURS.hash, commit)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("block_id", [OTHER, None])
async def test_a_commit_holds_a_signature_for_another_block(
    index: int, block_id: BlockId | None
) -> None:
    # The signature is genuine, the quorum stands without it, and it is for another block or nil.
    chain = ExecutionChain()
    key = VALIDATORS[find_key(chain, index)]
    strange = sign_vote(key, VoteType.PRECOMMIT, HEIGHT, block_id).signature
    check(chain, make_proof(chain))
    with pytest.raises(CommitError, match="wrong signature"):
        check(chain, put(make_proof(chain), index, strange))


@pytest.mark.parametrize("index", range(4))
async def test_signatures_past_two_thirds_are_not_checked(index: int) -> None:
    chain = ExecutionChain()
    forged = put(make_proof(chain), index, Signature(bytes(64)))
    with pytest.raises(CommitError, match="wrong signature"):
        check(chain, forged)


async def test_a_block_carries_a_commit_with_garbage_past_two_thirds() -> None:
    chain = ExecutionChain()
    await chain.decide()
    executed = await chain.build(chain.make_entry(0, Transfer(USERS[1].address, 1)))
    last = executed.block.last_commit
    assert last is not None
    padded = put(last, 3, Signature(bytes(64)))
    block_id, raw = rebuild(executed, lambda block: replace(block, last_commit=padded))
    with pytest.raises(BlockError, match="wrong signature"):
        await chain.executor.judge(block_id, raw)


async def test_one_validator_signs_in_the_place_of_another() -> None:
    chain = ExecutionChain()
    proof = make_proof(chain)
    with pytest.raises(CommitError, match="wrong signature"):
        check(chain, put(proof, 1, proof.signatures[0]))


async def test_a_commit_has_another_length_than_the_validator_set() -> None:
    chain = ExecutionChain()
    proof = make_proof(chain)
    for signatures in (proof.signatures[:3], (*proof.signatures, proof.signatures[0])):
        with pytest.raises(CommitError, match="signatures for 4 validators"):
            check(chain, replace(proof, signatures=signatures))


async def test_what_a_commit_proves_and_the_block_time_disagree() -> None:
    # Nothing that is signed by a vote tells a time, so that nobody's vote can move the block's.
    assert not [name for name in (*Vote.__struct_fields__, *Commit.__struct_fields__)
                if "time" in name]  # fmt: skip
    assert "time_ms" in Proposal.__struct_fields__
    times = []
    for signers in (VALIDATORS[:3], VALIDATORS[1:], VALIDATORS):
        chain = ExecutionChain()
        first = await chain.build(time_ms=chain.genesis.genesis_time_ms + 100)
        position = chain.executor.position
        chain.executor.commit(
            make_commit(position.validators, signers, Height(HEIGHT), first.block_id)
        )
        second = await chain.build()
        times.append(second.block.header.time_ms - first.block.header.time_ms)
    assert times == [100, 100, 100]
