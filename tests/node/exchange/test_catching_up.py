"""Catching up: windows of blocks from peers that tell the truth, and from those that do not."""

# The fixture `autojump_clock` works by being asked for.
# ruff: noqa: ARG001

import os
from typing import Any

import pytest
import trio
from quorate.chain.ids import Height

from node.exchange.catching_up import (
    BAD_BLOCK_PENALTY,
    BATCHES_MAX,
    EMPTY_ANSWER_PENALTY,
    PATIENCE_S,
    SILENCE_S,
    WINDOW_BLOCKS,
    WINDOW_BYTES_MAX,
    CatchUp,
)
from node.exchange.messages import (
    RANGE_BYTES_MAX,
    BlocksAnswer,
    GetBlockRange,
    GetBlocks,
    RangeAnswer,
    StoredBlock,
    decode_request,
    encode_message,
)
from p2p.network import PeerId, RequestTimedOut
from tests.node.exchange.scripted import Answer, ScriptedNetwork, refuse

A, B = PeerId("a"), PeerId("b")


def serve(top: int, *, block_bytes: int = 10, answer_blocks: int = 128) -> Answer:
    async def answer(body: bytes) -> bytes:
        await trio.sleep(0.01)
        request = decode_request(body)
        assert isinstance(request, GetBlocks)
        stop = min(request.start + min(request.count, answer_blocks), top + 1)
        blocks = tuple(
            StoredBlock(height.to_bytes(8, "big") + bytes(block_bytes), b"commit")
            for height in range(request.start, stop)
        )
        return encode_message(BlocksAnswer(blocks, 0, b""))

    return answer


def serve_large(block: bytes, *, slice_bytes: int = RANGE_BYTES_MAX) -> Answer:
    async def answer(body: bytes) -> bytes:
        request = decode_request(body)
        if isinstance(request, GetBlocks):
            return encode_message(BlocksAnswer((), len(block), b"commit"))
        assert isinstance(request, GetBlockRange)
        part = block[request.offset : request.offset + slice_bytes]
        return encode_message(RangeAnswer(len(block), part))

    return answer


async def be_silent(_body: bytes) -> bytes:
    await trio.sleep(5)
    raise RequestTimedOut("no answer")


def make_catch_up(network: ScriptedNetwork, height: int = 0) -> CatchUp:
    seam: Any = network
    catch_up = CatchUp(seam)
    catch_up.advance(Height(height))
    return catch_up


async def follow(catch_up: CatchUp, top: int, seconds: float = 600) -> list[PeerId]:
    """Take block after block, as the consensus loop does; return who sent each."""
    senders = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up.run)
        with trio.fail_after(seconds):
            while catch_up.height < top:
                fetched = catch_up.get(Height(catch_up.height + 1))
                if fetched is None:
                    await trio.sleep(0.01)
                    continue
                assert fetched.block[:8] == fetched.height.to_bytes(8, "big")
                senders.append(fetched.peer)
                catch_up.advance(fetched.height)
        nursery.cancel_scope.cancel()
    return senders


async def test_all_blocks_come_in_order_from_all_peers(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(1000), b=serve(1000, answer_blocks=7))
    catch_up = make_catch_up(network)
    for peer in (A, B):
        catch_up.on_status(peer, Height(1000), Height(0))
    assert catch_up.is_behind
    senders = await follow(catch_up, 1000)
    assert {peer: senders.count(peer) > 50 for peer in (A, B)} == {A: True, B: True}
    assert not catch_up.is_behind
    assert network.reports == []


async def test_a_peer_is_asked_only_for_what_it_has(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(50), b=serve(200))
    catch_up = make_catch_up(network)
    catch_up.on_status(A, Height(50), Height(0))
    catch_up.on_status(B, Height(200), Height(51))
    senders = await follow(catch_up, 200)
    assert set(senders[:50]) == {A}
    assert set(senders[50:]) == {B}


async def test_the_window_ahead_of_the_chain_is_bounded(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(10_000))
    catch_up = make_catch_up(network)
    catch_up.on_status(A, Height(10_000), Height(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up.run)
        await trio.sleep(5)
        assert len(catch_up._fetched) == WINDOW_BLOCKS
        catch_up.advance(Height(100))
        await trio.sleep(5)
        assert len(catch_up._fetched) == WINDOW_BLOCKS
        assert min(catch_up._fetched) == 101
        nursery.cancel_scope.cancel()


async def test_the_bytes_that_wait_are_bounded(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(10_000, block_bytes=1 << 20, answer_blocks=1))
    catch_up = make_catch_up(network)
    catch_up.on_status(A, Height(10_000), Height(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up.run)
        await trio.sleep(20)
        assert catch_up._fetched_bytes >= WINDOW_BYTES_MAX
        assert catch_up._fetched_bytes <= WINDOW_BYTES_MAX + (BATCHES_MAX + 1) * (1 << 20)
        nursery.cancel_scope.cancel()


async def test_one_block_behind_waits_for_consensus_first(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(6))
    catch_up = make_catch_up(network, 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up.run)
        # The chain has rested for long; that is no reason for haste.
        await trio.sleep(60)
        catch_up.on_status(A, Height(6), Height(0))
        assert not catch_up.is_behind
        await trio.sleep(PATIENCE_S / 2)
        assert network.requests == []
        await trio.sleep(PATIENCE_S)
        assert catch_up.get(Height(6)) is not None
        nursery.cancel_scope.cancel()


async def test_a_refused_block_costs_its_sender_and_comes_from_another(
    autojump_clock: object,
) -> None:
    network = ScriptedNetwork(a=serve(100), b=serve(100))
    catch_up = make_catch_up(network)
    catch_up.on_status(A, Height(100), Height(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up.run)
        await trio.sleep(1)
        fetched = catch_up.get(Height(1))
        assert fetched is not None
        catch_up.on_status(B, Height(100), Height(0))
        catch_up.refuse(fetched, "its commit proves nothing")
        assert network.reports == [(A, BAD_BLOCK_PENALTY, "its commit proves nothing")]
        assert catch_up.get(Height(1)) is None
        await trio.sleep(SILENCE_S / 2)
        again = catch_up.get(Height(1))
        assert again is not None
        assert again.peer == B
        nursery.cancel_scope.cancel()


async def give_nothing(_body: bytes) -> bytes:
    return encode_message(BlocksAnswer((), 0, b""))


@pytest.mark.parametrize("answer", [refuse, give_nothing, be_silent])
async def test_a_claim_without_blocks_loses_belief_and_rests_longer_each_time(
    answer: Answer, autojump_clock: object
) -> None:
    network = ScriptedNetwork(a=answer)
    catch_up = make_catch_up(network)
    catch_up.on_status(A, Height(10**9), Height(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up.run)
        await trio.sleep(8)
        assert not catch_up.is_behind
        assert catch_up.highest_claim == 0
        assert set(network.reports) == {(A, EMPTY_ANSWER_PENALTY, "claimed blocks it did not send")}
        await trio.sleep(300)
        asked = len(network.requests)
        await trio.sleep(120)
        assert len(network.requests) - asked <= 2 * BATCHES_MAX
        nursery.cancel_scope.cancel()


async def test_a_peer_that_delivers_again_is_believed_again(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=refuse)
    catch_up = make_catch_up(network)
    catch_up.on_status(A, Height(10), Height(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    network.answers["a"] = serve(20)
    await follow(catch_up, 10)
    catch_up.on_status(A, Height(20), Height(0))
    assert catch_up.highest_claim == 20


async def test_malformed_answers_cost_more_than_silence(autojump_clock: object) -> None:
    async def garble(_body: bytes) -> bytes:
        return b"\xc1"

    network = ScriptedNetwork(a=garble, b=serve(10))
    catch_up = make_catch_up(network)
    catch_up.on_status(A, Height(10), Height(0))
    catch_up.on_status(B, Height(10), Height(0))
    assert set(await follow(catch_up, 10)) == {B}
    assert BAD_BLOCK_PENALTY in {penalty for peer, penalty, _ in network.reports if peer == A}


async def test_a_large_block_comes_in_slices(autojump_clock: object) -> None:
    block = (1).to_bytes(8, "big") + os.urandom(2 * RANGE_BYTES_MAX + 3)
    network = ScriptedNetwork(a=serve_large(block))
    catch_up = make_catch_up(network)
    catch_up.on_status(A, Height(1), Height(0))
    assert await follow(catch_up, 1) == [A]
    assert len(network.requests) == 4


@pytest.mark.parametrize("slice_bytes", [1, 1000, 0])
async def test_a_trickle_holds_up_nobody(slice_bytes: int, autojump_clock: object) -> None:
    block = (1).to_bytes(8, "big") + os.urandom(2 * RANGE_BYTES_MAX)
    network = ScriptedNetwork(a=serve_large(block, slice_bytes=slice_bytes), b=serve_large(block))
    catch_up = make_catch_up(network)
    for peer in (A, B):
        catch_up.on_status(peer, Height(1), Height(0))
    assert await follow(catch_up, 1, 30) == [B]


async def test_a_block_beyond_any_limit_is_not_fetched(autojump_clock: object) -> None:
    async def boast(_body: bytes) -> bytes:
        return encode_message(BlocksAnswer((), 2**60, b"commit"))

    network = ScriptedNetwork(a=boast)
    catch_up = make_catch_up(network)
    catch_up.on_status(A, Height(5), Height(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert {type(decode_request(body)) for _, body in network.requests} == {GetBlocks}
    assert network.reports[0][:2] == (A, BAD_BLOCK_PENALTY)


async def test_a_peer_that_left_is_not_asked(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(10))
    catch_up = make_catch_up(network)
    catch_up.on_status(A, Height(10), Height(0))
    catch_up.on_peer_disconnected(A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert network.requests == []
