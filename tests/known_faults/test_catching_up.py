"""Faults of others in fetching decided blocks; sources in docs/known_faults.md."""

from pathlib import Path
from typing import Any

import pytest
import trio
from quorate.chain.ids import Height

from node.exchange.catching_up import SHRUNK_CLAIM_PENALTY, SILENCE_S, CatchUp
from node.exchange.messages import GetBlocks
from p2p.network import PeerId
from tests.node.exchange.chain_peers import Blocks, make_chain, open_newcomer
from tests.node.exchange.scripted import ScriptedNetwork
from tests.node.exchange.test_catching_up import serve

BLOCKS = 150
LIAR, HONEST = PeerId("liar"), PeerId("honest")


async def test_a_peer_reports_a_height_and_then_a_lower_one(
    autojump_clock: object,  # noqa: ARG001 - it works by being asked for.
) -> None:
    network: Any = ScriptedNetwork()
    catch_up = CatchUp(network)
    catch_up.on_status(HONEST, Height(10), Height(1))
    catch_up.on_status(LIAR, Height(2000), Height(1))
    assert catch_up.highest_claim == 2000
    catch_up.on_status(LIAR, Height(9), Height(1))
    assert [(peer, penalty) for peer, penalty, _ in network.reports] == [
        (LIAR, SHRUNK_CLAIM_PENALTY)
    ]
    # What was said first is forgotten: nobody waits for block 2000.
    assert catch_up.highest_claim == 10
    # Nor once the peer is believed again, since it has sent a good block.
    network.answers[LIAR] = serve(9)
    async with trio.open_nursery() as nursery:
        catch_up.on_peer_disconnected(HONEST)
        nursery.start_soon(catch_up.run)
        await trio.sleep(SILENCE_S + 1)
        assert catch_up.get(Height(9)) is not None
        nursery.cancel_scope.cancel()
    catch_up.advance(Height(9))
    assert catch_up.highest_claim == 9
    catch_up.on_status(HONEST, Height(10), Height(1))
    catch_up.advance(Height(10))
    assert not catch_up.is_behind


@pytest.mark.parametrize("claim", [(10**12, 10**11), (2**62, 10**6), (BLOCKS, 10**12), (10**12, 1)])
async def test_a_base_or_height_that_nobody_has_poisons_the_target(
    tmp_path: Path, claim: tuple[int, int]
) -> None:
    def boast(peer: Any) -> None:
        peer.claims = (claim,)

    chain = await make_chain(BLOCKS)
    async with open_newcomer(tmp_path, chain, boast, lambda _: None) as (newcomer, peers):
        await newcomer.reach(BLOCKS)
        catch_up = newcomer.member.running.services.catch_up
        with trio.fail_after(10):
            while catch_up.is_behind:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert catch_up.highest_claim <= BLOCKS
        assert not newcomer.is_scored_down(peers[1])


async def test_an_answer_is_not_contiguous(tmp_path: Path) -> None:
    async def leave_out_every_other(_request: GetBlocks, blocks: Blocks) -> Blocks:
        return blocks[::2]

    def skip(peer: Any) -> None:
        peer.behave = leave_out_every_other

    chain = await make_chain(BLOCKS)
    async with open_newcomer(tmp_path, chain, skip, lambda _: None) as (newcomer, peers):
        await newcomer.reach(BLOCKS)
        store = newcomer.member.running.services.storage.chain
        assert all(
            store.load_block(height) == chain.store.load_block(height)
            for height in range(1, BLOCKS + 1)
        )
        with trio.fail_after(10):
            while not newcomer.is_scored_down(peers[0]):  # noqa: ASYNC110
                await trio.sleep(0.01)
