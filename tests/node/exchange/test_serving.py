"""Answers to pulls: what is here, within the limits of one answer."""

import os
from typing import TypeVar

import pytest
from msgspec import Struct
from quorate.chain.codec import decode
from quorate.chain.content import CHUNK_BYTES, compute_chunk_hashes
from quorate.chain.ids import INT64_MAX, Hash, Height
from quorate.chain.transaction import PAYLOAD_BYTES_MAX

from node.exchange.messages import (
    BLOCKS_PER_ANSWER_MAX,
    CHUNKS_MAX,
    RANGE_BYTES_MAX,
    RIDING_PAYLOAD_BYTES_MAX,
    TRANSACTION_BATCH_BYTES_MAX,
    BlocksAnswer,
    ChunkHashesAnswer,
    GetBlockRange,
    GetBlocks,
    GetChunk,
    GetChunkHashes,
    GetTransactions,
    RangeAnswer,
    TransactionEntry,
    TransactionsMessage,
    encode_message,
)
from node.exchange.serving import Server
from p2p.network import RESPONSE_BYTES_MAX, PeerId, RequestRefused
from store.chain_store import ChainStore, DecidedBlock
from store.database import MemoryDatabase
from store.memory_payloads import MemoryPayloadStore

T = TypeVar("T", bound=Struct)
PEER = PeerId("p")


class Pending:
    def __init__(self, **entries: TransactionEntry) -> None:
        self.entries = {make_hash(int(name[1:])): entry for name, entry in entries.items()}

    def get_entry(self, transaction_hash: Hash) -> TransactionEntry | None:
        return self.entries.get(transaction_hash)


def make_hash(number: int) -> Hash:
    return Hash(number.to_bytes(32, "big"))


def make_store(*sizes: int) -> ChainStore:
    store = ChainStore(MemoryDatabase())
    store.initialize({}, lambda _key: 0, {})
    for height, size in enumerate(sizes, 1):
        store.commit(
            DecidedBlock(
                height, make_hash(height), os.urandom(size), b"c%d" % height, b"", (), {}, len
            )
        )
    return store


def make_server(
    store: ChainStore, payloads: MemoryPayloadStore | None = None, **pending: TransactionEntry
) -> Server:
    return Server(store, payloads or MemoryPayloadStore(), Pending(**pending))


async def ask(server: Server, request: object, kind: type[T]) -> T:
    raw = await server.answer(PEER, encode_message(request))  # type: ignore[arg-type]
    assert len(raw) <= RESPONSE_BYTES_MAX
    return decode(kind, raw, RESPONSE_BYTES_MAX)


async def test_blocks_come_in_order_with_their_commits_until_there_are_no_more() -> None:
    store = make_store(*[100] * 200)
    server = make_server(store)
    answer = await ask(server, GetBlocks(Height(2), 3), BlocksAnswer)
    assert [(b.block, b.commit) for b in answer.blocks] == [
        (store.load_block(height), b"c%d" % height) for height in (2, 3, 4)
    ]
    whole = await ask(server, GetBlocks(Height(1), BLOCKS_PER_ANSWER_MAX), BlocksAnswer)
    assert len(whole.blocks) == BLOCKS_PER_ANSWER_MAX
    last = await ask(server, GetBlocks(Height(199), 50), BlocksAnswer)
    assert len(last.blocks) == 2
    for start in (0, 201, INT64_MAX):
        none = await ask(server, GetBlocks(Height(start), 10), BlocksAnswer)
        assert none == BlocksAnswer((), 0, b"")


async def test_an_answer_is_as_full_as_may_be() -> None:
    server = make_server(make_store(400_000, 400_000, 400_000))
    answer = await ask(server, GetBlocks(Height(1), 3), BlocksAnswer)
    assert len(answer.blocks) == 2


async def test_a_block_too_large_for_an_answer_comes_in_ranges() -> None:
    store = make_store(100, RANGE_BYTES_MAX + 5)
    server = make_server(store)
    assert len((await ask(server, GetBlocks(Height(1), 2), BlocksAnswer)).blocks) == 1
    answer = await ask(server, GetBlocks(Height(2), 2), BlocksAnswer)
    assert answer == BlocksAnswer((), RANGE_BYTES_MAX + 5, b"c2")
    block = store.load_block(2) or b""
    for offset, length in ((0, RANGE_BYTES_MAX), (RANGE_BYTES_MAX, RANGE_BYTES_MAX), (2**62, 9)):
        part = await ask(server, GetBlockRange(Height(2), offset, length), RangeAnswer)
        assert part == RangeAnswer(len(block), block[offset : offset + length])
    with pytest.raises(RequestRefused, match="block 3 is not here"):
        await ask(server, GetBlockRange(Height(3), 0, 1), RangeAnswer)


@pytest.mark.parametrize("size", [9, RIDING_PAYLOAD_BYTES_MAX + 1, 2 * CHUNK_BYTES + 9])
async def test_payloads_come_in_chunks(size: int) -> None:
    payloads = MemoryPayloadStore()
    data = os.urandom(size)
    name = Hash(payloads.put(data))
    server = make_server(make_store(), payloads)
    told = await ask(server, GetChunkHashes(name), ChunkHashesAnswer)
    assert told == ChunkHashesAnswer(size, compute_chunk_hashes(data))
    for index in range(len(told.chunk_hashes)):
        chunk = await server.answer(PEER, encode_message(GetChunk(name, index)))
        assert chunk == data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
    with pytest.raises(RequestRefused, match="no chunk"):
        await server.answer(PEER, encode_message(GetChunk(name, len(told.chunk_hashes))))
    for request in (GetChunk(make_hash(1), 0), GetChunkHashes(make_hash(1))):
        with pytest.raises(RequestRefused, match="not here"):
            await server.answer(PEER, encode_message(request))


async def test_the_longest_answers_fit() -> None:
    assert len(encode_message(ChunkHashesAnswer(2**32, (make_hash(1),) * CHUNKS_MAX))) < 150_000
    assert CHUNKS_MAX * CHUNK_BYTES == PAYLOAD_BYTES_MAX
    assert CHUNK_BYTES < RESPONSE_BYTES_MAX


async def test_pending_transactions_come_as_far_as_they_fit() -> None:
    large = TransactionEntry(b"t" * 1000, b"p" * 60_000)
    server = make_server(make_store(), **{f"_{number}": large for number in range(12)})
    hashes = tuple(make_hash(number) for number in (99, *range(12)))
    answer = await ask(server, GetTransactions(hashes), TransactionsMessage)
    assert len(answer.entries) == TRANSACTION_BATCH_BYTES_MAX // 61_016
    with pytest.raises(RequestRefused, match="none of these"):
        await ask(server, GetTransactions((make_hash(99),)), TransactionsMessage)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x09\x01\x01", b"\x93\x01\x01\x00", b"\x90"])
async def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRefused):
        await make_server(make_store()).answer(PEER, body)


async def test_ranges_beyond_the_limit_are_refused() -> None:
    for request in (
        GetBlockRange(Height(1), 0, RANGE_BYTES_MAX + 1),
        GetBlockRange(Height(1), -1, 5),
        GetChunk(make_hash(1), CHUNKS_MAX),
        GetChunk(make_hash(1), -1),
        GetBlocks(Height(1), BLOCKS_PER_ANSWER_MAX + 1),
        GetTransactions(()),
    ):
        with pytest.raises(RequestRefused):
            await make_server(make_store()).answer(PEER, encode_message(request))
