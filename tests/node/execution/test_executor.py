"""The executor: blocks built here are valid elsewhere, and nothing else is."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from quorate.chain.block import (
    Block,
    Version,
)
from quorate.chain.errors import BlockError, InvariantError
from quorate.chain.ids import Address, Hash
from quorate.chain.merkle import compute_proofs
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.transaction import Transfer
from quorate.chain.vote import BlockId

from node.execution.executor import ExecutedBlock
from tests.node.cluster import BALANCE, USERS, make_genesis, sign
from tests.node.execution.chain import (
    VALIDATORS,
    Entry,
    ExecutionChain,
    change_header,
    make_commit,
    make_entry,
    rebuild,
)

OTHER = Hash(b"\x07" * 32)
OTHER_ID = BlockId(OTHER, 1, OTHER)


def make_pair(**parameters: int) -> tuple[ExecutionChain, ExecutionChain]:
    """Return the chains of a proposer and of another validator."""
    genesis = make_genesis(parameters=ConsensusParameters(**parameters))
    return ExecutionChain(genesis), ExecutionChain(genesis)


def transfer(chain: ExecutionChain, user: int = 0, amount: int = 1) -> Entry:
    return chain.make_entry(user, Transfer(USERS[7].address, amount))


async def follow(other: ExecutionChain, executed: ExecutedBlock, chain: ExecutionChain) -> None:
    """Let another node judge and decide a block that `chain` has built, then decide it here."""
    commit = chain.sign_commit(executed.block_id)
    await other.executor.judge(executed.block_id, executed.raw)
    other.executor.commit(commit)
    chain.executor.commit(commit)


async def test_what_one_builds_another_finds_valid_and_both_stand_at_the_same_state() -> None:
    chain, other = make_pair()
    for count in (0, 3, 70):
        executed = await chain.build(*(transfer(chain) for _ in range(count)))
        judged = await other.executor.judge(executed.block_id, executed.raw)
        assert judged.block == executed.block
        assert judged.transaction_hashes == executed.transaction_hashes
        assert len(judged.transaction_hashes) == count
        await follow(other, executed, chain)
    assert chain.executor.position == other.executor.position
    assert chain.executor.state.root == other.executor.state.root
    assert other.executor.state.get_account(USERS[7].address).balance == BALANCE + 73


async def test_a_restart_finds_the_position_where_it_was() -> None:
    chain, _ = make_pair()
    await chain.decide(transfer(chain))
    await chain.decide()
    before = chain.executor.position
    chain.open()
    assert chain.executor.position == before
    assert before.height == 2
    await chain.decide(transfer(chain))


HEADER_FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "chain_id": ({"chain_id": "another"}, "wrong chain_id in the header"),
    "height below": ({"height": 1}, "wrong height in the header"),
    "height above": ({"height": 3}, "wrong height in the header"),
    "parent": ({"last_block_id": OTHER_ID}, "wrong last_block_id in the header"),
    "validators": ({"validators_root": OTHER}, "wrong validators_root in the header"),
    "next validators": ({"next_validators_root": OTHER}, "wrong next_validators_root"),
    "parameters": ({"consensus_parameters_root": OTHER}, "wrong consensus_parameters_root"),
    "state": ({"state_root": OTHER}, "state_root is 0707"),
    "receipts": ({"receipts_root": OTHER}, "receipts_root is 0707"),
    "model": ({"model_root": OTHER}, "model_root is 0707"),
    "stranger": ({"proposer": Address(b"\x07" * 20)}, "creator is no validator"),
    "version": ({"version": Version(1, 2)}, "unknown block version 1/2"),
}


@pytest.mark.parametrize("name", HEADER_FAULTS)
async def test_a_false_header_is_refused_with_its_reason(name: str) -> None:
    changes, sentence = HEADER_FAULTS[name]
    chain, other = make_pair()
    await follow(other, await chain.build(), chain)
    executed = await chain.build(transfer(chain))
    block_id, raw = rebuild(executed, change_header(**changes))
    with pytest.raises(BlockError, match=sentence):
        await other.executor.judge(block_id, raw)
    assert other.executor.get_executed(block_id.hash) is None
    # The height is not spoilt: the true block is still valid.
    await follow(other, executed, chain)


@pytest.mark.parametrize("offset", [0, -1])
async def test_a_block_is_later_than_its_parent(offset: int) -> None:
    chain, other = make_pair()
    await follow(other, await chain.build(), chain)
    time_ms = chain.executor.position.time_ms + offset
    block_id, raw = rebuild(await chain.build(), change_header(time_ms=time_ms))
    with pytest.raises(BlockError, match="is not after its parent's"):
        await other.executor.judge(block_id, raw)


async def test_a_clock_behind_the_parent_still_makes_a_valid_block() -> None:
    chain, other = make_pair()
    executed = await chain.build(time_ms=1)
    assert executed.block.header.time_ms == chain.executor.position.time_ms + 1
    await follow(other, executed, chain)


def with_transactions(*raws: bytes) -> Callable[[Block], Block]:
    return lambda block: replace(block, transactions=raws)


def forge(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


A0 = sign(USERS[0], 0, Transfer(USERS[1].address, 1))
A1 = sign(USERS[0], 1, Transfer(USERS[1].address, 1))
TOO_RICH = sign(USERS[2], 0, Transfer(USERS[1].address, BALANCE + 1))


@pytest.mark.parametrize(
    ("raws", "sentence"),
    [
        ((forge(A0),), r"transaction 0: The signature .*\[bad_signature\]"),
        ((b"\x00garbage",), r"transaction 0: .*\[malformed\]"),
        ((A1,), r"transaction 0 .*\[wrong_nonce\]"),
        ((A1, A0), r"transaction 0 .*\[wrong_nonce\]"),
        ((A0, A0), r"transaction 1 .*\[wrong_nonce\]"),
        ((A0, TOO_RICH), r"transaction 1 .*\[insufficient_balance\]"),
    ],
)
async def test_a_block_with_a_bad_transaction_is_refused(
    raws: tuple[bytes, ...], sentence: str
) -> None:
    chain, other = make_pair()
    block_id, raw = rebuild(await chain.build(), with_transactions(*raws))
    with pytest.raises(BlockError, match=sentence):
        await other.executor.judge(block_id, raw)


async def test_a_builder_leaves_out_what_is_refused_and_keeps_the_rest() -> None:
    chain, other = make_pair()
    entries = [make_entry(raw) for raw in (A1, A0, TOO_RICH, A1)]
    executed = await chain.build(*entries)
    assert executed.transaction_hashes == (entries[1][0], entries[3][0])
    await follow(other, executed, chain)


@pytest.mark.parametrize("field", ["transactions_root", "evidence_root", "last_commit_root"])
async def test_the_header_must_be_that_of_the_contents(field: str) -> None:
    chain, other = make_pair()
    await follow(other, await chain.build(), chain)
    executed = await chain.build(transfer(chain))
    block_id, raw = rebuild(executed, change_header(**{field: OTHER}), is_consistent=False)
    with pytest.raises(BlockError, match=f"{field} is not the root"):
        await other.executor.judge(block_id, raw)


async def test_bytes_that_are_no_block_are_refused() -> None:
    chain, other = make_pair()
    executed = await chain.build()
    with pytest.raises(BlockError, match="cannot be decoded"):
        await other.executor.judge(executed.block_id, executed.raw + b"\0")
    elsewhere = replace(executed.block_id, hash=OTHER)
    with pytest.raises(BlockError, match="another hash than was proposed"):
        await other.executor.judge(elsewhere, executed.raw)


async def test_a_known_block_lends_its_verdict_to_no_other_body() -> None:
    # The same header, so the same hash, over a body without the transaction.
    chain, other = make_pair()
    executed = await chain.build(transfer(chain))
    await other.executor.judge(executed.block_id, executed.raw)
    block_id, raw = rebuild(executed, with_transactions(), is_consistent=False)
    assert block_id.hash == executed.block_id.hash
    with pytest.raises(BlockError, match="transactions_root is not the root"):
        await other.executor.judge(block_id, raw)


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_block_has_one_way_to_be_cut_into_parts(is_known: bool) -> None:
    chain, other = make_pair()
    executed = await chain.build(transfer(chain))
    if is_known:
        await other.executor.judge(executed.block_id, executed.raw)
    half = len(executed.raw) // 2
    root, _ = compute_proofs([executed.raw[:half], executed.raw[half:]])
    cut = BlockId(executed.block_id.hash, 2, root)
    with pytest.raises(BlockError, match="cut into other parts"):
        await other.executor.judge(cut, executed.raw)
    with pytest.raises(InvariantError, match="not executed"):
        other.executor.commit(chain.sign_commit(cut))


async def test_a_block_over_the_limit_is_refused() -> None:
    chain, other = make_pair(block_bytes_max=8192)
    raws = [sign(USERS[0], nonce, Transfer(USERS[1].address, 1)) for nonce in range(60)]
    built = await chain.build(*map(make_entry, raws))
    assert len(built.raw) <= 8192
    assert 0 < len(built.transaction_hashes) < 60
    block_id, raw = rebuild(built, with_transactions(*raws))
    assert len(raw) > 8192
    with pytest.raises(BlockError, match=r"cannot be decoded: .* exceeds its limit of 8192"):
        await other.executor.judge(block_id, raw)


async def test_the_last_commit_must_prove_the_parent() -> None:
    chain, other = make_pair()
    await follow(other, await chain.build(), chain)
    position = chain.executor.position
    assert position.block_id is not None
    executed = await chain.build()

    def with_commit(block_id: BlockId, signers: int) -> tuple[BlockId, bytes]:
        keys = VALIDATORS[:signers]
        commit = make_commit(position.last_validators, keys, position.height, block_id)
        return rebuild(executed, lambda block: replace(block, last_commit=commit))

    for block_id, signers, sentence in (
        (OTHER_ID, 4, "the last commit is for another block"),
        (position.block_id, 2, "last commit: commit has power 20"),
        (position.block_id, 0, "last commit: commit has power 0"),
    ):
        with pytest.raises(BlockError, match=sentence):
            await other.executor.judge(*with_commit(block_id, signers))
    # Another quorum of the same decision is as good as the own one.
    await other.executor.judge(*with_commit(position.block_id, 3))
