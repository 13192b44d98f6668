"""Answers to peers' pulls: decided blocks, payloads, pending transactions.

Owns what a node gives away on request, within the limits of one answer. Never trusts a request
further than its type, and reads only what is decided, verified or pending.
"""

from typing import Protocol, assert_never

import trio
from quorate.chain.errors import DecodeError
from quorate.chain.ids import Hash

from node.exchange.messages import (
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
    StoredBlock,
    TransactionEntry,
    TransactionsMessage,
    decode_request,
    encode_message,
)
from p2p.network import PeerId, RequestRefused
from store.chain_store import ChainStore
from store.payload_contract import Payloads

ANSWER_BYTES_MAX = RANGE_BYTES_MAX
BLOCKS_BETWEEN_CHECKPOINTS = 16
READERS_MAX = 4
"""Threads that read chunks for peers."""


class PendingTransactions(Protocol):
    """Where pending transactions are looked up: `transaction_gossip` is one."""

    def get_entry(self, transaction_hash: Hash) -> TransactionEntry | None:
        """Return a pending transaction with its payload if it is small."""
        ...


class Server:
    """Answers requests from what this node has.

    Parameters
    ----------
    store : ChainStore
        Decided blocks.
    payloads : Payloads
        Payloads by hash.
    pending : PendingTransactions
        The mempool's.
    """

    def __init__(self, store: ChainStore, payloads: Payloads, pending: PendingTransactions) -> None:
        self._store = store
        self._payloads = payloads
        self._pending = pending
        self._readers = trio.CapacityLimiter(READERS_MAX)

    async def answer(self, peer: PeerId, body: bytes) -> bytes:  # noqa: ARG002
        """Return the encoded answer; whoever is linked may ask.

        Raises
        ------
        RequestRefused
            If the request can't be decoded, or what it asks for is not here.
        """
        try:
            request = decode_request(body)
        except DecodeError as error:
            raise RequestRefused(str(error)) from error
        match request:
            case GetBlocks():
                return encode_message(await self._get_blocks(request))
            case GetBlockRange():
                return encode_message(self._get_block_range(request))
            case GetChunkHashes():
                return encode_message(await self._get_chunk_hashes(request))
            case GetChunk():
                return await self._get_chunk(request)
            case GetTransactions():
                return encode_message(self._get_transactions(request))
            case _:
                assert_never(request)

    async def _get_blocks(self, request: GetBlocks) -> BlocksAnswer:
        blocks: list[StoredBlock] = []
        used = 0
        for height in range(request.start, request.start + request.count):
            block, commit = self._store.load_block(height), self._store.load_commit(height)
            if block is None or commit is None:
                break
            used += len(block) + len(commit) + 16
            if used > ANSWER_BYTES_MAX:
                if not blocks:
                    return BlocksAnswer((), len(block), commit)
                break
            blocks.append(StoredBlock(block, commit))
            if len(blocks) % BLOCKS_BETWEEN_CHECKPOINTS == 0:
                await trio.lowlevel.checkpoint()
        return BlocksAnswer(tuple(blocks), 0, b"")

    def _get_block_range(self, request: GetBlockRange) -> RangeAnswer:
        block = self._store.load_block(request.height)
        if block is None:
            raise RequestRefused(f"block {request.height} is not here")
        end = request.offset + request.length
        return RangeAnswer(len(block), block[request.offset : end])

    async def _get_chunk_hashes(self, request: GetChunkHashes) -> ChunkHashesAnswer:
        size = self._payloads.size(request.payload_hash)
        # They are at hand, unless a power failure took them and the whole file must be read.
        chunk_hashes = await trio.to_thread.run_sync(
            self._payloads.get_chunk_hashes, request.payload_hash, limiter=self._readers
        )
        if size is None or chunk_hashes is None:
            raise RequestRefused("the payload is not here")
        return ChunkHashesAnswer(size, chunk_hashes)

    async def _get_chunk(self, request: GetChunk) -> bytes:
        size = self._payloads.size(request.payload_hash)
        if size is None:
            raise RequestRefused("the payload is not here")
        if size <= RIDING_PAYLOAD_BYTES_MAX:
            data = self._payloads.read_chunk(request.payload_hash, request.index)
        else:
            data = await trio.to_thread.run_sync(
                self._payloads.read_chunk,
                request.payload_hash,
                request.index,
                limiter=self._readers,
            )
        if data is None:
            raise RequestRefused(f"there is no chunk {request.index}")
        return data

    def _get_transactions(self, request: GetTransactions) -> TransactionsMessage:
        entries: list[TransactionEntry] = []
        used = 0
        for transaction_hash in request.hashes:
            entry = self._pending.get_entry(transaction_hash)
            if entry is None:
                continue
            used += len(entry.transaction) + len(entry.payload or b"") + 16
            if used > TRANSACTION_BATCH_BYTES_MAX:
                break
            entries.append(entry)
        if not entries:
            raise RequestRefused("none of these transactions is pending here")
        return TransactionsMessage(tuple(entries))
