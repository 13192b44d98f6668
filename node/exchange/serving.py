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
    TRANSACTION_BATCH_BYTES_MAX,
    BlocksAnswer,
    GetBlockRange,
    GetBlocks,
    GetPayloadRange,
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
            case GetPayloadRange():
                return encode_message(self._get_payload_range(request))
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

    def _get_payload_range(self, request: GetPayloadRange) -> RangeAnswer:
        data = self._payloads.get(request.payload_hash)
        if data is None:
            raise RequestRefused("the payload is not here")
        end = request.offset + request.length
        return RangeAnswer(len(data), bytes(data[request.offset : end]))

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
