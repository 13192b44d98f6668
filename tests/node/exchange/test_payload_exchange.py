"""Payloads pulled from peers of every kind, chunk by chunk."""

# The fixture `autojump_clock` works by being asked for.
# ruff: noqa: ARG001

import os
from typing import Any

import pytest
import trio
from quorate.chain.content import CHUNK_BYTES, compute_chunk_hashes, compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.merkle import hash_node
from structlog.testing import capture_logs

from node.exchange import payload_exchange, payload_pull
from node.exchange.messages import (
    ChunkHashesAnswer,
    GetChunk,
    GetChunkHashes,
    decode_request,
    encode_message,
)
from node.exchange.payload_exchange import (
    CHUNKS_IN_MEMORY_MAX,
    LOOK_S,
    PULLS_MAX,
    SIZES_MAX,
    WANTED_MAX,
    PayloadExchange,
)
from node.exchange.payload_pull import (
    ATTEMPTS_MAX,
    CHUNKS_PER_PEER_MAX,
    CHUNKS_PER_PULL_MAX,
    DISTRUST_S,
    REQUEST_TIMEOUT_S,
    SLOWEST_BYTES_PER_S,
    WRONG_PAYLOAD_PENALTY,
)
from p2p.network import PeerId, RequestTimedOut, RequestTooLarge
from store.errors import PayloadAbandoned
from store.memory_payloads import MemoryPayloadStore
from tests.node.exchange.scripted import Answer, ScriptedNetwork, refuse

SMALL = b"a small payload"
LARGE = os.urandom(2 * CHUNK_BYTES + 5)
HUGE = os.urandom(12 * CHUNK_BYTES)
LIMIT = 16 << 20


def name_of(data: bytes) -> Hash:
    return compute_content_hash(data)


def serve(*payloads: bytes) -> Answer:
    held = {name_of(data): data for data in payloads}

    async def answer(body: bytes) -> bytes:
        request = decode_request(body)
        assert isinstance(request, GetChunk | GetChunkHashes)
        data = held.get(request.payload_hash)
        if data is None:
            return await refuse(body)
        if isinstance(request, GetChunkHashes):
            return encode_message(ChunkHashesAnswer(len(data), compute_chunk_hashes(data)))
        return data[request.index * CHUNK_BYTES : (request.index + 1) * CHUNK_BYTES]

    return answer


def tell(hashes: ChunkHashesAnswer | bytes, chunk: bytes = b"") -> Answer:
    async def give(body: bytes) -> bytes:
        if isinstance(decode_request(body), GetChunk):
            return chunk
        return hashes if isinstance(hashes, bytes) else encode_message(hashes)

    return give


async def be_silent(_body: bytes) -> bytes:
    await trio.sleep(REQUEST_TIMEOUT_S)
    raise RequestTimedOut("no answer")


def make_exchange(
    network: ScriptedNetwork, payloads: MemoryPayloadStore
) -> tuple[PayloadExchange, list[Hash]]:
    stored: list[Hash] = []
    seam: Any = network
    return PayloadExchange(seam, payloads, LIMIT, stored.append), stored


async def pull_for_block(exchange: PayloadExchange, data: bytes) -> None:
    await exchange.wait_for((name_of(data),), {bytes(name_of(data)): len(data)})


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


@pytest.mark.parametrize("is_size_known", [True, False])
@pytest.mark.parametrize("data", [SMALL, LARGE, HUGE])
async def test_a_payload_is_pulled_in_chunks_and_told(
    data: bytes, is_size_known: bool, autojump_clock: object
) -> None:
    network = ScriptedNetwork(a=serve(data))
    payloads = MemoryPayloadStore()
    exchange, stored = make_exchange(network, payloads)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run)
        assert exchange.want(name_of(data), len(data) if is_size_known else 0)
        await exchange.wait_for((name_of(data),))
        nursery.cancel_scope.cancel()
    assert payloads.get(name_of(data)) == data
    assert stored == [name_of(data)]
    count = len(compute_chunk_hashes(data))
    needs_list = count > 1 or not is_size_known
    assert len(network.requests) == count + needs_list
    assert not exchange.want(name_of(data))
    assert network.reports == []
    assert (exchange.figures.chunks, exchange.figures.bytes) == (count, len(data))
    assert (exchange.wanted_count, exchange.bytes_missing, exchange.figures.wrong) == (0, 0, 0)


HASHES = compute_chunk_hashes(LARGE)
LIES: dict[str, tuple[bytes, Answer]] = {
    "other bytes": (SMALL, tell(b"", SMALL[::-1])),
    "too few bytes": (SMALL, tell(b"", SMALL[:-1])),
    "no bytes": (SMALL, tell(b"")),
    "no size": (LARGE, tell(ChunkHashesAnswer(0, ()))),
    "other hashes": (LARGE, tell(ChunkHashesAnswer(len(LARGE), HASHES[::-1]))),
    "too few hashes": (LARGE, tell(ChunkHashesAnswer(len(LARGE), HASHES[:-1]))),
    "too large": (LARGE, tell(ChunkHashesAnswer(LIMIT + 1, HASHES))),
    "garbage": (LARGE, tell(b"\xc1")),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_liar_is_reported_and_another_peer_asked(name: str, autojump_clock: object) -> None:
    data, lie = LIES[name]
    network = ScriptedNetwork(a=lie, b=serve(data))
    payloads = await pull(network, data, size=len(data))
    assert payloads.get(name_of(data)) == data
    assert [(peer, penalty) for peer, penalty, _ in network.reports] == [
        ("a", WRONG_PAYLOAD_PENALTY)
    ]
    assert [peer for peer, _ in network.requests[:2]] == ["a", "b"]


async def test_a_wrong_chunk_costs_that_chunk_and_its_sender(autojump_clock: object) -> None:
    honest = serve(HUGE)

    async def lie_once(body: bytes) -> bytes:
        request = decode_request(body)
        answer = await honest(body)
        is_lie = isinstance(request, GetChunk) and request.index == 2
        return answer[::-1] if is_lie else answer

    network = ScriptedNetwork(a=lie_once, b=honest, c=honest)
    payloads = MemoryPayloadStore()
    exchange, _ = make_exchange(network, payloads)
    exchange.want(name_of(HUGE), len(HUGE), PeerId("a"))
    await exchange.wait_for((name_of(HUGE),))
    assert payloads.get(name_of(HUGE)) == HUGE
    assert {peer for peer, _, _ in network.reports} == {"a"}
    assert 1 <= exchange.figures.wrong <= CHUNKS_PER_PEER_MAX
    # The list, each chunk once, and once more what came wrong.
    assert len(network.requests) == 1 + 12 + exchange.figures.wrong


@pytest.mark.parametrize("names", ["a", "abc"])
async def test_chunks_come_from_several_peers_at_once(names: str, autojump_clock: object) -> None:
    busy = dict.fromkeys(names, 0)
    most, together = dict(busy), [0]

    def serve_slowly(name: str) -> Answer:
        honest = serve(HUGE)

        async def answer(body: bytes) -> bytes:
            busy[name] += 1
            most[name] = max(most[name], busy[name])
            together.append(sum(busy.values()))
            await trio.sleep(1)
            busy[name] -= 1
            return await honest(body)

        return answer

    network = ScriptedNetwork(**{name: serve_slowly(name) for name in names})
    await pull(network, HUGE, size=len(HUGE))
    assert all(1 <= count <= CHUNKS_PER_PEER_MAX for count in most.values())
    assert max(together) == min(CHUNKS_PER_PULL_MAX, CHUNKS_PER_PEER_MAX * len(names))


async def test_a_pull_goes_on_after_a_restart(autojump_clock: object) -> None:
    honest = serve(HUGE)
    served: list[int] = []

    async def serve_some(body: bytes) -> bytes:
        request = decode_request(body)
        if isinstance(request, GetChunk):
            if len(served) == 5:
                return await be_silent(body)
            served.append(request.index)
        return await honest(body)

    network = ScriptedNetwork(a=serve_some)
    payloads = MemoryPayloadStore()
    exchange, _ = make_exchange(network, payloads)
    sizes: dict[bytes, int] = {name_of(HUGE): len(HUGE)}
    with trio.move_on_after(0.5):
        await exchange.wait_for((name_of(HUGE),), sizes)
    assert exchange.bytes_missing == 7 * CHUNK_BYTES
    assert len(served) == 5
    payloads = payloads.reopen()
    again = ScriptedNetwork(a=honest)
    await make_exchange(again, payloads)[0].wait_for((name_of(HUGE),), sizes)
    asked = [decode_request(body) for _, body in again.requests]
    assert sorted(request.index for request in asked if isinstance(request, GetChunk)) == sorted(
        set(range(12)) - set(served)
    )
    assert payloads.get(name_of(HUGE)) == HUGE


@pytest.mark.parametrize("is_one_chunk", [True, False])
async def test_a_lie_about_a_size_that_nobody_signed_hurts_no_honest_peer(
    is_one_chunk: bool, autojump_clock: object
) -> None:
    """The root of two inner nodes is the root of four chunks: which it is, only the size says."""
    data = SMALL if is_one_chunk else os.urandom(4 * CHUNK_BYTES)
    hashes = compute_chunk_hashes(data)
    inner = (Hash(hash_node(*hashes[:2])), Hash(hash_node(*hashes[2:]))) if hashes[1:] else hashes
    size = len(SMALL) - 1 if is_one_chunk else 2 * CHUNK_BYTES
    honest = serve(data)

    async def lie(body: bytes) -> bytes:
        if isinstance(decode_request(body), GetChunkHashes):
            return encode_message(ChunkHashesAnswer(size, inner))
        return await refuse(body)

    async def be_strict(body: bytes) -> bytes:
        answer = await honest(body)
        is_chunk = isinstance(decode_request(body), GetChunk)
        if is_chunk and len(answer) > network.bytes_max:
            raise RequestTooLarge("longer than asked for")
        return answer

    network = ScriptedNetwork(a=lie, b=be_strict)
    payloads = MemoryPayloadStore()
    exchange, _ = make_exchange(network, payloads)
    exchange.want(name_of(data), 0, PeerId("a"))
    await exchange.wait_for((name_of(data),))
    assert payloads.get(name_of(data)) == data
    assert network.reports == []


INNER = tuple(
    Hash(hash_node(*compute_chunk_hashes(HUGE[: 4 * CHUNK_BYTES])[each : each + 2]))
    for each in (0, 2)
)


def be_strict(network: ScriptedNetwork, *payloads: bytes) -> Answer:
    """Serve payloads over a network that cuts what is longer than was asked for."""
    honest = serve(*payloads)

    async def answer(body: bytes) -> bytes:
        data = await honest(body)
        if isinstance(decode_request(body), GetChunk) and len(data) > network.bytes_max:
            raise RequestTooLarge("longer than asked for")
        return data

    return answer


@pytest.mark.parametrize("data", [SMALL, LARGE])
@pytest.mark.parametrize("lie", [-1, 1, CHUNK_BYTES])
async def test_who_signs_a_wrong_size_makes_honest_peers_no_liars(
    data: bytes, lie: int, autojump_clock: object
) -> None:
    network = ScriptedNetwork()
    network.answers |= {name: be_strict(network, data) for name in "ab"}
    # An accomplice, which repeats the lie with the true list.
    hashes = compute_chunk_hashes(data)
    network.answers["0"] = tell(ChunkHashesAnswer(len(data) + lie, hashes), b"?")
    payloads = MemoryPayloadStore()
    exchange, _ = make_exchange(network, payloads)
    assert exchange.want(name_of(data), max(1, len(data) + lie), PeerId("0"))
    with trio.move_on_after(30):
        await exchange.wait_for((name_of(data),))
    assert {peer for peer, _, _ in network.reports} <= {"0"}
    assert not payloads.has(name_of(data))


@pytest.mark.parametrize("data", [SMALL, LARGE])
@pytest.mark.parametrize("is_started", [False, True])
async def test_a_wrong_size_that_was_signed_first_does_not_keep_the_payload_out(
    data: bytes, is_started: bool, autojump_clock: object
) -> None:
    network = ScriptedNetwork()
    network.answers |= {name: be_strict(network, data) for name in "ab"}
    payloads = MemoryPayloadStore()
    exchange, _ = make_exchange(network, payloads)
    async with trio.open_nursery() as nursery:
        exchange.want(name_of(data), len(data) + 1)
        nursery.start_soon(exchange.run)
        if is_started:
            await trio.sleep(1)
        for lie in range(2, SIZES_MAX + 9):
            exchange.want(name_of(data), len(data) + lie)
        await pull_for_block(exchange, data)
        nursery.cancel_scope.cancel()
    assert payloads.get(name_of(data)) == data
    assert network.reports == []


async def test_what_somebody_began_under_a_lie_is_pulled_none_the_less(
    autojump_clock: object,
) -> None:
    data = HUGE[: 4 * CHUNK_BYTES]
    network = ScriptedNetwork(a=serve(data), b=serve(data))
    payloads = MemoryPayloadStore()
    payloads.begin(name_of(data), 2 * CHUNK_BYTES, INNER)
    exchange, _ = make_exchange(network, payloads)
    await pull_for_block(exchange, data)
    assert payloads.get(name_of(data)) == data
    assert network.reports == []
    assert payloads.bytes_total == len(data)


async def test_chunks_in_memory_are_bounded(autojump_clock: object) -> None:
    assert CHUNKS_IN_MEMORY_MAX < PULLS_MAX * CHUNKS_PER_PEER_MAX
    data = [os.urandom(4 * CHUNK_BYTES) for _ in range(PULLS_MAX)]
    honest, busy, most = serve(*data), [0], [0]

    async def answer(body: bytes) -> bytes:
        if isinstance(decode_request(body), GetChunk):
            busy[0] += 1
            most[0] = max(most)
            most.append(busy[0])
            await trio.sleep(0.1)
            busy[0] -= 1
        return await honest(body)

    network = ScriptedNetwork(a=answer)
    payloads = MemoryPayloadStore()
    exchange, stored = make_exchange(network, payloads)
    async with trio.open_nursery() as nursery:
        for each in data:
            exchange.want(name_of(each), len(each))
        nursery.start_soon(exchange.run)
        while len(stored) < len(data):  # noqa: ASYNC110 - a plain list tells of it.
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert max(most) == CHUNKS_IN_MEMORY_MAX


async def test_what_nobody_goes_on_with_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_exchange, "PARTIAL_IDLE_S", 0.05)
    payloads = MemoryPayloadStore()
    exchange, _ = make_exchange(ScriptedNetwork(), payloads)
    partial = payloads.begin(name_of(LARGE), len(LARGE), HASHES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.sweep_partials)
        with trio.fail_after(5):
            while payloads.get_partial(name_of(LARGE)) is not None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert payloads.bytes_total == 0
    with pytest.raises(PayloadAbandoned):
        partial.write(0, LARGE[:CHUNK_BYTES])


async def test_room_for_what_never_comes_is_given_back(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=tell(ChunkHashesAnswer(len(LARGE), HASHES), LARGE[:9]))
    payloads = await pull(network, LARGE, size=len(LARGE))
    assert payloads.bytes_total == 0
    assert payloads.get_partial(name_of(LARGE)) is None


async def test_the_named_holder_is_asked_first(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(SMALL), b=serve(SMALL), c=serve(SMALL))
    payloads = MemoryPayloadStore()
    exchange, _ = make_exchange(network, payloads)
    exchange.want(name_of(SMALL), len(SMALL), PeerId("gone"))
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
    assert len(network.requests) == ATTEMPTS_MAX
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
        await exchange.wait_for((name_of(LARGE),))
        nursery.cancel_scope.cancel()
    # All of the silent peer's places are taken; what the block needs is asked for beside them.
    assert [peer for peer, _ in network.requests].index("b") <= PULLS_MAX
    assert payloads.get(name_of(LARGE)) == LARGE


async def test_a_block_takes_its_payload_out_of_the_queue_once(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=be_silent, b=serve(SMALL))
    exchange, stored = make_exchange(network, MemoryPayloadStore())
    for number in range(WANTED_MAX - 1):
        exchange.want(Hash(number.to_bytes(32, "big")), 0, PeerId("a"))
    assert exchange.want(name_of(SMALL), len(SMALL), PeerId("b"))
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


async def test_a_payload_that_comes_another_way_is_waited_for_no_longer(
    autojump_clock: object,
) -> None:
    exchange, _ = make_exchange(ScriptedNetwork(a=be_silent), payloads := MemoryPayloadStore())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run)
        nursery.start_soon(exchange.wait_for, (name_of(SMALL),))
        await trio.sleep(1)
        payloads.put(SMALL)
        with trio.fail_after(2 * LOOK_S):
            await exchange.wait_for((name_of(SMALL),))
            while exchange.wanted_count:  # noqa: ASYNC110
                await trio.sleep(LOOK_S / 10)
        nursery.cancel_scope.cancel()


async def test_a_silent_peer_is_asked_once_for_a_payload(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=be_silent, b=refuse)
    began = trio.current_time()
    await pull(network, SMALL)
    assert [peer for peer, _ in network.requests].count("a") == 1
    assert trio.current_time() - began < 30


async def test_a_silent_peer_holds_up_one_payload_and_not_each(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=be_silent, b=serve(*(bytes([i]) * 9 for i in range(4))))
    exchange, _ = make_exchange(network, MemoryPayloadStore())
    asked: list[int] = []
    for number in range(4):
        if number == 3:
            await trio.sleep(DISTRUST_S)
        await exchange.wait_for((name_of(bytes([number]) * 9),))
        asked.append([peer for peer, _ in network.requests].count("a"))
    assert asked == [1, 1, 1, 2]
    # Whom nobody else can stand in for is asked at once.
    network.answers = {"a": serve(b"late")}
    began = trio.current_time()
    await exchange.wait_for((name_of(b"late"),))
    assert trio.current_time() - began < 1


async def test_an_answer_may_take_as_long_as_its_bytes_do(autojump_clock: object) -> None:
    network = ScriptedNetwork(a=serve(SMALL, LARGE))
    exchange, _ = make_exchange(network, MemoryPayloadStore())
    small, large = len(SMALL), min(len(LARGE), CHUNK_BYTES)
    for payload, length in ((SMALL, small), (LARGE, large)):
        name = name_of(payload)
        await exchange.wait_for((name,), {name: len(payload)})
        assert network.timeout_s <= REQUEST_TIMEOUT_S + length / SLOWEST_BYTES_PER_S
    assert network.timeout_s > REQUEST_TIMEOUT_S


def test_peers_that_do_not_answer_are_kept_within_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payload_pull, "DISTRUSTED_MAX", 2)

    async def distrust() -> list[bool]:
        exchange, _ = make_exchange(ScriptedNetwork(), MemoryPayloadStore())
        parts = exchange._block_parts
        for peer in "abc":
            parts.distrust(PeerId(peer))
        return [parts.is_distrusted(PeerId(peer)) for peer in "abc"]

    assert trio.run(distrust) == [False, True, True]


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
