"""Evidence: what a block may hold, what a pool keeps, and what is a peer's fault."""

import pytest
from msgspec.structs import replace
from quorate.chain.block import EVIDENCE_PER_BLOCK_MAX
from quorate.chain.codec import encode
from quorate.chain.errors import BlockError, DecodeError, SignatureError
from quorate.chain.evidence import DuplicateVoteEvidence, make_duplicate_vote_evidence
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.vote import BlockId, VoteType

from node.agreement.evidence_pool import PENDING_EVIDENCE_MAX, EvidencePool
from tests.node.cluster import make_genesis, make_key
from tests.node.execution.chain import VALIDATORS, ExecutionChain, rebuild, sign_vote


def make_id(number: int) -> BlockId:
    return BlockId(Hash(bytes([number]) * 32), 1, Hash(bytes([number]) * 32))


def make_evidence(
    height: int,
    *,
    key: PrivateKey = VALIDATORS[3],
    round_: int = 0,
    numbers: tuple[int, int] = (1, 2),
) -> DuplicateVoteEvidence:
    one, other = (
        sign_vote(key, VoteType.PREVOTE, height, make_id(number), round_) for number in numbers
    )
    return make_duplicate_vote_evidence(one, other)


async def make_chain(heights: int, **parameters: int) -> ExecutionChain:
    chain = ExecutionChain(make_genesis(parameters=ConsensusParameters(**parameters)))
    for _ in range(heights):
        await chain.decide()
    return chain


async def test_a_block_with_evidence_is_valid_elsewhere() -> None:
    chain = await make_chain(3)
    evidence = make_evidence(2)
    executed = await chain.build(evidence=(evidence,))
    judge = ExecutionChain(chain.genesis, database=chain.database, payloads=chain.payloads)
    judged = await judge.executor.judge(executed.block_id, executed.raw)
    assert judged.evidence == (evidence,)


def make_faults() -> dict[str, tuple[bytes, str]]:
    good = make_evidence(2)
    vote = good.first
    return {
        "garbage": (b"\x91\x01", "evidence: not a valid message"),
        "no conflict": (encode(DuplicateVoteEvidence(vote, vote)), "do not conflict"),
        "order": (encode(DuplicateVoteEvidence(good.second, good.first)), "not in order"),
        "stranger": (encode(make_evidence(2, key=make_key(77))), "not signed by its validator"),
        "forged": (
            encode(make_duplicate_vote_evidence(vote, replace(good.second, block_id=make_id(9)))),
            "not signed by its validator",
        ),
        "running height": (encode(make_evidence(4)), "not decided yet"),
        "far height": (encode(make_evidence(2**40)), "not decided yet"),
        "before genesis": (encode(make_evidence(0)), "evidence of height 0, which is not kept"),
    }


@pytest.mark.parametrize("name", make_faults())
async def test_a_block_with_bad_evidence_is_refused(name: str) -> None:
    raw, sentence = make_faults()[name]
    chain = await make_chain(3)
    executed = await chain.build()
    block_id, changed = rebuild(executed, lambda block: replace(block, evidence=(raw,)))
    with pytest.raises(BlockError, match=sentence):
        await chain.executor.judge(block_id, changed)


async def test_evidence_is_too_old_only_by_heights_and_by_time() -> None:
    chain = await make_chain(5, evidence_age_heights_max=2, evidence_age_ms_max=1000)
    raw = encode(make_evidence(2))
    header_time = chain.executor.position.time_ms - 300
    chain.executor.validate_evidence(raw, header_time + 1000)
    with pytest.raises(BlockError, match="evidence of height 2 is too old"):
        chain.executor.validate_evidence(raw, header_time + 1001)
    assert chain.executor.assess_evidence(raw, header_time + 1001) is None
    recent = encode(make_evidence(4))
    chain.executor.validate_evidence(recent, header_time + 10**9)


async def test_an_offence_is_recorded_once_in_whatever_pair_of_votes() -> None:
    chain = await make_chain(3)
    first, second = make_evidence(2), make_evidence(2, numbers=(1, 3))
    assert first.hash != second.hash
    rival = ExecutionChain(chain.genesis, database=chain.database)
    executed = await rival.build(evidence=(first,))
    block_id, raw = rebuild(
        executed, lambda block: replace(block, evidence=(encode(first), encode(second)))
    )
    with pytest.raises(BlockError, match="recorded already"):
        await rival.executor.judge(block_id, raw)
    await chain.decide(evidence=(first,))
    for evidence in (first, second):
        with pytest.raises(BlockError, match="recorded already"):
            chain.executor.validate_evidence(encode(evidence), chain.next_time_ms)
        assert chain.executor.assess_evidence(encode(evidence), chain.next_time_ms) is None


async def test_genuine_evidence_is_nobodys_fault_wherever_it_stands() -> None:
    chain = await make_chain(3)
    assess, now_ms = chain.executor.assess_evidence, chain.next_time_ms
    running = make_evidence(4)
    assert assess(encode(running), now_ms) == running
    for height in (0, 5, 2**40):
        assert assess(encode(make_evidence(height)), now_ms) is None


@pytest.mark.parametrize("height", [2, 4])
async def test_forged_evidence_is_its_senders_fault(height: int) -> None:
    chain = await make_chain(3)
    with pytest.raises(SignatureError):
        chain.executor.assess_evidence(encode(make_evidence(height, key=make_key(77))), 0)
    with pytest.raises(DecodeError):
        chain.executor.assess_evidence(b"\x91\x01", 0)


def test_a_pool_holds_one_piece_for_each_offence() -> None:
    pool = EvidencePool()
    evidence = make_evidence(2)
    assert pool.add(evidence)
    assert not pool.add(evidence)
    assert not pool.add(make_evidence(2, numbers=(1, 3)))
    assert pool.add(make_evidence(2, round_=1))
    assert len(pool) == 2


def test_what_was_decided_is_not_taken_again() -> None:
    pool = EvidencePool()
    evidence = make_evidence(2)
    pool.add(evidence)
    pool.remove((evidence,))
    assert len(pool) == 0
    assert not pool.add(make_evidence(2, numbers=(2, 3)))


def test_what_can_enter_no_block_is_dropped() -> None:
    pool = EvidencePool()
    evidence = make_evidence(2)
    pool.add(evidence)
    pool.drop(make_evidence(2, numbers=(2, 3)))
    assert len(pool) == 0
    assert pool.add(evidence)


def test_a_pool_is_bounded_and_gives_the_oldest_first() -> None:
    pool = EvidencePool()
    pieces = [make_evidence(2, round_=round_) for round_ in range(PENDING_EVIDENCE_MAX + 1)]
    assert [pool.add(piece) for piece in pieces] == [True] * PENDING_EVIDENCE_MAX + [False]
    size = len(encode(pieces[0]))
    assert pool.reap(EVIDENCE_PER_BLOCK_MAX, 10**6) == tuple(pieces[:EVIDENCE_PER_BLOCK_MAX])
    assert pool.reap(10, 3 * size) == tuple(pieces[:3])
    assert pool.reap(10, 3 * size - 1) == tuple(pieces[:2])
    pool.remove(tuple(pieces))
    assert not pool.add(pieces[-1])
    assert pool.add(pieces[0])  # Long forgotten; a block would refuse it.
