"""Payloads pulled from peers of every kind."""

# The fixture `autojump_clock` works by being asked for.
# ruff: noqa: ARG001

import os
from typing import Any

import pytest
import trio
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash
from structlog.testing import capture_logs

from node.exchange.messages import (
    RANGE_BYTES_MAX,
    GetPayloadRange,
    RangeAnswer,
    decode_request,
    encode_message,
)
from node.exchange.payload_exchange import (
    ATTEMPTS_MAX,
    PULLS_MAX,
    WANTED_MAX,
    WRONG_PAYLOAD_PENALTY,
    PayloadExchange,
)
from p2p.network import PeerId, RequestTimedOut
from store.memory_payloads import MemoryPayloadStore
from tests.node.exchange.scripted import Answer, ScriptedNetwork, refuse

SMALL = b"a small payload"
LARGE = os.urandom(2 * RANGE_BYTES_MAX + 5)
LIMIT = 8 << 20


def name_of(data: bytes) -> Hash:
    return compute_content_hash(data)


def serve(*payloads: bytes) -> Answer:
    held = {name_of(data): data for data in payloads}

    async def answer(body: bytes) -> bytes:
        request = decode_request(body)
        assert isinstance(request, GetPayloadRange)
        data = held.get(request.payload_hash)
        if data is None:
            return await refuse(body)
        part = data[request.offset : request.offset + request.length]
        return encode_message(RangeAnswer(len(data), part))

    return answer


def tell(answer: RangeAnswer | bytes) -> Answer:
    async def give(_body: bytes) -> bytes:
        return answer if isinstance(answer, bytes) else encode_message(answer)

    return give


async def be_silent(_body: bytes) -> bytes:
    await trio.sleep(10)
    raise RequestTimedOut("no answer")


def make_exchange(
    network: ScriptedNetwork, payloads: MemoryPayloadStore
) -> tuple[PayloadExchange, list[Hash]]:
    stored: list[Hash] = []
    seam: Any = network
    return PayloadExchange(seam, payloads, LIMIT, stored.append), stored


async def pull(network: ScriptedNetwork, *data: bytes, size: int = 0) -> MemoryPayloadStore:
    payloads = MemoryPayloadStore()
    exchange, _ = make_exchange(network, payloads)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run)
        for each in data:
            exchange.want(name_of(each), size)
        await exchange.wait_for(tuple(map(name_of, data)))
        nursery.cancel_scope.cancel()
    return payloads


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_a_payload_is_pulled_in_slices_and_told(data: bytes, autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(data))
    payloads = MemoryPayloadStore()
    exchange, stored = make_exchange(network, payloads)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run)
        assert exchange.want(name_of(data), len(data))
        await exchange.wait_for((name_of(data),))
        nursery.cancel_scope.cancel()
    assert payloads.get(name_of(data)) == data
    assert stored == [name_of(data)]
    assert len(network.requests) == 1 + (len(data) - 1) // RANGE_BYTES_MAX
    assert not exchange.want(name_of(data))
    assert network.reports == []


LIES: dict[str, tuple[RangeAnswer | bytes, int]] = {
    "other bytes": (RangeAnswer(len(SMALL), SMALL[::-1]), 0),
    "other size": (RangeAnswer(len(SMALL) + 1, SMALL + b"!"), len(SMALL)),
    "no bytes": (RangeAnswer(len(SMALL), b""), 0),
    "nothing": (RangeAnswer(0, b""), 0),
    "too large": (RangeAnswer(LIMIT + 1, b"x" * RANGE_BYTES_MAX), 0),
    "a byte at a time": (RangeAnswer(len(SMALL), SMALL[:1]), 0),
    "more than it says": (RangeAnswer(3, SMALL), 0),
    "garbage": (b"\xc1", 0),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_liar_is_reported_and_another_peer_asked(name: str, autojump_clock: object) -> None:
    answer, size = LIES[name]
    network = ScriptedNetwork(a=tell(answer), b=serve(SMALL))
    payloads = await pull(network, SMALL, size=size)
    assert payloads.get(name_of(SMALL)) == SMALL
    assert [(peer, penalty) for peer, penalty, _ in network.reports] == [
        ("a", WRONG_PAYLOAD_PENALTY)
    ]
    assert [peer for peer, _ in network.requests] == ["a", "b"]


async def test_a_size_that_changes_midway_is_a_lie(autojump_clock: object) -> None:
    totals = iter([len(LARGE), len(LARGE) - 1])

    async def waver(body: bytes) -> bytes:
        request = decode_request(body)
        assert isinstance(request, GetPayloadRange)
        part = LARGE[request.offset : request.offset + request.length]
        return encode_message(RangeAnswer(next(totals), part))

    network = ScriptedNetwork(a=waver, b=serve(LARGE))
    payloads = await pull(network, LARGE)
    assert payloads.get(name_of(LARGE)) == LARGE
    assert len(network.reports) == 1


async def test_the_named_holder_is_asked_first(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(SMALL), b=serve(SMALL), c=serve(SMALL))
    payloads = MemoryPayloadStore()
    exchange, _ = make_exchange(network, payloads)
    exchange.want(name_of(SMALL), 0, PeerId("gone"))
    exchange.want(name_of(SMALL), 0, PeerId("c"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run)
        await exchange.wait_for((name_of(SMALL),))
        nursery.cancel_scope.cancel()
    assert [peer for peer, _ in network.requests] == ["c"]


async def test_silence_delays_and_does_not_prevent(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=be_silent, b=refuse, c=serve(SMALL))
    payloads = await pull(network, SMALL)
    assert payloads.get(name_of(SMALL)) == SMALL
    assert network.reports == []


async def test_what_nobody_has_is_given_up_and_may_be_wanted_again(
    autojump_clock: object,
) -> None:
    network = ScriptedNetwork(a=refuse)
    with capture_logs() as logs:
        await pull(network, SMALL)
    assert len(network.requests) <= ATTEMPTS_MAX
    assert [entry["event"] for entry in logs] == ["payload_not_found"]
    network.answers["a"] = serve(SMALL)
    assert (await pull(network, SMALL)).get(name_of(SMALL)) == SMALL


async def test_wanted_payloads_are_bounded_and_pulled_a_few_at_a_time(
    autojump_clock: object,
) -> None:
    network = ScriptedNetwork(a=be_silent)
    exchange, _ = make_exchange(network, MemoryPayloadStore())
    names = [Hash(number.to_bytes(32, "big")) for number in range(WANTED_MAX + 1)]
    assert [exchange.want(name) for name in names] == [True] * WANTED_MAX + [False]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run)
        await trio.sleep(1)
        assert len(network.requests) == PULLS_MAX
        nursery.cancel_scope.cancel()


async def test_a_block_does_not_queue_behind_what_nobody_has(autojump_clock: object) -> None:
    """A participant names payloads without end, and its peer is silent when asked for them."""
    network = ScriptedNetwork(a=be_silent, b=serve(LARGE))
    payloads = MemoryPayloadStore()
    exchange, _ = make_exchange(network, payloads)
    for number in range(WANTED_MAX):
        assert exchange.want(Hash(number.to_bytes(32, "big")), 0, PeerId("a"))
    # Full, so that the mempool's own wish for it is refused.
    assert not exchange.want(name_of(LARGE), len(LARGE), PeerId("b"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run)
        await trio.sleep(1)
        with trio.fail_after(15):
            await exchange.wait_for((name_of(LARGE),))
        nursery.cancel_scope.cancel()
    assert payloads.get(name_of(LARGE)) == LARGE


async def test_a_block_takes_its_payload_out_of_the_queue_once(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=be_silent, b=serve(SMALL))
    exchange, stored = make_exchange(network, MemoryPayloadStore())
    for number in range(WANTED_MAX - 1):
        exchange.want(Hash(number.to_bytes(32, "big")), 0, PeerId("a"))
    assert exchange.want(name_of(SMALL), 0, PeerId("b"))
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(exchange.wait_for, (name_of(SMALL),))
    assert stored == [name_of(SMALL)]
    assert [peer for peer, _ in network.requests] == ["b"]
    # Its place in the queue is still taken, which refuses the next one and breaks nothing.
    assert not exchange.want(Hash(b"\xff" * 32))


async def test_a_pull_cut_short_by_its_height_goes_on_for_its_transaction(
    autojump_clock: object,
) -> None:
    network = ScriptedNetwork(a=be_silent)
    exchange, stored = make_exchange(network, MemoryPayloadStore())
    exchange.want(name_of(SMALL), 0, PeerId("a"))
    with trio.move_on_after(1):
        await exchange.wait_for((name_of(SMALL),))
    network.answers["a"] = serve(SMALL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert stored == [name_of(SMALL)]


async def test_a_silent_peer_is_asked_once_for_a_payload(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=be_silent, b=refuse)
    began = trio.current_time()
    await pull(network, SMALL)
    assert [peer for peer, _ in network.requests].count("a") == 1
    assert trio.current_time() - began < 30


async def test_a_block_that_names_many_payloads_pulls_a_few_at_a_time(
    autojump_clock: object,
) -> None:
    network = ScriptedNetwork(a=be_silent)
    exchange, _ = make_exchange(network, MemoryPayloadStore())
    names = tuple(Hash(number.to_bytes(32, "big")) for number in range(3 * PULLS_MAX))
    with trio.move_on_after(1):
        await exchange.wait_for(names)
    assert len(network.requests) == PULLS_MAX


async def test_a_full_store_is_told_and_stops_nothing(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(SMALL, LARGE))
    payloads = MemoryPayloadStore(total_bytes_max=len(SMALL))
    exchange, stored = make_exchange(network, payloads)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.run)
            await exchange.wait_for((name_of(LARGE),))
            await exchange.wait_for((name_of(SMALL),))
            nursery.cancel_scope.cancel()
    assert [entry["event"] for entry in logs] == ["payload_not_stored"]
    assert stored == [name_of(SMALL)]
