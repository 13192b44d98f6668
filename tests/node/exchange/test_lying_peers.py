"""Peers that lie to a node which is behind: they cost it time, never progress, and are marked."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from quorate.chain.codec import decode, encode
from quorate.chain.ids import Height, Signature
from quorate.chain.vote import Commit

from node.exchange import catching_up
from node.exchange.messages import GetBlocks, StoredBlock
from tests.node.exchange.chain_peers import (
    Behave,
    Blocks,
    ChainPeer,
    Newcomer,
    be_honest,
    make_chain,
    open_newcomer,
)

BLOCKS = 300


def honest(_peer: ChainPeer) -> None:
    pass


def lie(behave: Behave) -> Callable[[ChainPeer], None]:
    def apply(peer: ChainPeer) -> None:
        peer.behave = behave

    return apply


def claim(*claims: tuple[int, int]) -> Callable[[ChainPeer], None]:
    def apply(peer: ChainPeer) -> None:
        peer.claims = claims

    return apply


async def wait_for_score(newcomer: Newcomer, liar: ChainPeer) -> None:
    with trio.fail_after(20):
        while not newcomer.is_scored_down(liar):  # noqa: ASYNC110
            await trio.sleep(0.01)


# What it sends.


async def leave_one_out(_request: GetBlocks, blocks: Blocks) -> Blocks:
    return blocks[:3] + blocks[4:]


async def turn_around(_request: GetBlocks, blocks: Blocks) -> Blocks:
    return blocks[::-1]


async def repeat_the_first(_request: GetBlocks, blocks: Blocks) -> Blocks:
    return blocks[:1] * len(blocks)


async def send_others(_request: GetBlocks, blocks: Blocks) -> Blocks:
    return [StoredBlock(block.block, blocks[0].commit) for block in blocks]


async def alter(_request: GetBlocks, blocks: Blocks) -> Blocks:
    return [
        StoredBlock(each.block[:-1] + bytes([each.block[-1] ^ 1]), each.commit) for each in blocks
    ]


async def swap_blocks(_request: GetBlocks, blocks: Blocks) -> Blocks:
    """Answer with genuine commits, each beside the next block."""
    return [StoredBlock(after.block, each.commit) for each, after in pairwise(blocks)]


async def weaken(_request: GetBlocks, blocks: Blocks) -> Blocks:
    weak = []
    for each in blocks:
        commit = decode(Commit, each.commit, len(each.commit))
        kept = (*commit.signatures[:2], Signature(b""), Signature(b""))
        weak.append(StoredBlock(each.block, encode(replace(commit, signatures=kept))))
    return weak


async def forge_the_last_signature(_request: GetBlocks, blocks: Blocks) -> Blocks:
    """Three of four signatures are enough, and right; the fourth is not."""
    forged = []
    for each in blocks:
        commit = decode(Commit, each.commit, len(each.commit))
        signatures = (*commit.signatures[:3], commit.signatures[0])
        forged.append(StoredBlock(each.block, encode(replace(commit, signatures=signatures))))
    return forged


async def send_nothing(_request: GetBlocks, _blocks: Blocks) -> Blocks:
    return []


async def send_more_than_asked(_request: GetBlocks, blocks: Blocks) -> Blocks:
    return blocks + [StoredBlock(b"\x00" * 100, b"\x00")] * (128 - len(blocks))


LIES: dict[str, Behave] = {
    "a block is missing": leave_one_out,
    "out of order": turn_around,
    "the first again and again": repeat_the_first,
    "commits of another block": send_others,
    "altered blocks": alter,
    "genuine commits beside other blocks": swap_blocks,
    "too few signatures": weaken,
    "a forged signature beyond the quorum": forge_the_last_signature,
    "nothing": send_nothing,
}


@pytest.mark.parametrize("name", LIES)
async def test_false_answers_cost_time_and_their_sender(tmp_path: Path, name: str) -> None:
    chain = await make_chain(BLOCKS)
    async with open_newcomer(tmp_path, chain, lie(LIES[name]), honest) as (newcomer, peers):
        await newcomer.reach(BLOCKS)
        liar, other = peers
        assert liar.asked
        await wait_for_score(newcomer, liar)
        assert not newcomer.is_scored_down(other)
        block = chain.store.load_block(BLOCKS)
        assert newcomer.member.running.services.storage.chain.load_block(BLOCKS) == block


async def test_blocks_beyond_those_asked_for_are_not_kept(tmp_path: Path) -> None:
    chain = await make_chain(BLOCKS)
    async with open_newcomer(tmp_path, chain, lie(send_more_than_asked)) as (newcomer, _):
        await newcomer.reach(BLOCKS)
        catch_up = newcomer.member.running.services.catch_up
        assert catch_up.get(Height(BLOCKS + 1)) is None


async def test_several_liars_leave_an_honest_peer_its_chance(tmp_path: Path) -> None:
    liars = [lie(behave) for behave in LIES.values()]
    async with open_newcomer(tmp_path, await make_chain(BLOCKS), *liars, honest) as (
        newcomer,
        peers,
    ):
        await newcomer.reach(BLOCKS, seconds=60)
        asked = [liar for liar in peers[:-1] if liar.asked]
        assert asked
        for liar in asked:
            await wait_for_score(newcomer, liar)
        assert not newcomer.is_scored_down(peers[-1])


# What it claims.


CLAIMS: dict[str, tuple[tuple[int, int], ...]] = {
    "a height that nobody has": ((10**12, 1),),
    "a base that nobody has": ((10**12, 10**11),),
    "a base above its height": ((BLOCKS, 10**12),),
}


@pytest.mark.parametrize("name", CLAIMS)
async def test_false_claims_stop_nobody(tmp_path: Path, name: str) -> None:
    async with open_newcomer(tmp_path, await make_chain(BLOCKS), claim(*CLAIMS[name]), honest) as (
        newcomer,
        peers,
    ):
        await newcomer.reach(BLOCKS)
        catch_up = newcomer.member.running.services.catch_up
        if "height" in name and "base" not in name:
            # It has nothing to show beyond the honest height.
            await wait_for_score(newcomer, peers[0])
            with trio.fail_after(10):
                while catch_up.is_behind:  # noqa: ASYNC110
                    await trio.sleep(0.01)
        assert not newcomer.is_scored_down(peers[1])


@pytest.mark.parametrize("height", [10**6, BLOCKS])
async def test_a_height_that_goes_down_costs_its_teller(tmp_path: Path, height: int) -> None:
    # Of the second one it has every block, and sends them: nothing but the shrinking is wrong.
    claims = ((height, 1), (height, 1), (5, 1))
    async with open_newcomer(tmp_path, await make_chain(BLOCKS), claim(*claims), honest) as (
        newcomer,
        peers,
    ):
        await newcomer.reach(BLOCKS)
        await wait_for_score(newcomer, peers[0])
        assert not newcomer.member.running.services.catch_up.is_behind
        assert not newcomer.is_scored_down(peers[1])


# When it answers.


async def be_silent(_request: GetBlocks, _blocks: Blocks) -> Blocks:
    await trio.sleep_forever()
    return []


async def drip(_request: GetBlocks, blocks: Blocks) -> Blocks:
    await trio.sleep(1)
    return blocks[:1]


@pytest.mark.parametrize("behave", [be_silent, drip])
async def test_who_keeps_the_next_block_back_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behave: Behave
) -> None:
    monkeypatch.setattr(catching_up, "STALL_S", 0.2)
    monkeypatch.setattr(catching_up, "SILENCE_S", 0.5)
    async with open_newcomer(tmp_path, await make_chain(BLOCKS), lie(behave), honest) as (
        newcomer,
        peers,
    ):
        await newcomer.reach(BLOCKS)
        await wait_for_score(newcomer, peers[0])
        assert not newcomer.is_scored_down(peers[1])
        # With every block waited for it would have taken minutes.
        assert len(peers[0].asked) < 30


async def test_a_single_slow_peer_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catching_up, "STALL_S", 0.05)

    async def be_slow(_request: GetBlocks, blocks: Blocks) -> Blocks:
        await trio.sleep(0.2)
        return blocks

    async with open_newcomer(tmp_path, await make_chain(BLOCKS), lie(be_slow)) as (newcomer, peers):
        await newcomer.reach(BLOCKS)
        assert not newcomer.is_scored_down(peers[0])


async def test_all_peers_lie_until_one_does_not(tmp_path: Path) -> None:
    chain = await make_chain(BLOCKS)
    async with open_newcomer(tmp_path, chain, lie(alter), lie(send_nothing)) as (newcomer, peers):
        await trio.sleep(0.5)
        assert newcomer.height == 0
        peers[1].behave = be_honest
        await newcomer.reach(BLOCKS, seconds=20)
