"""What nodes say to each other: link messages, the status on heartbeats, requests and answers.

Owns the wire types above p2p's opaque frames, their limits and their encoding. Never sends
anything and never judges what a message says.

Tags are never reused. A message that cannot be decoded is the sender's fault
(`quorate.chain.errors.DecodeError`).
"""

from hashlib import sha256
from typing import Annotated

from msgspec import Meta, Struct
from quorate.chain.announcement import PayloadAnnouncement
from quorate.chain.block import PARTS_MAX, BlockPart
from quorate.chain.codec import decode, encode
from quorate.chain.content import CHUNK_BYTES
from quorate.chain.ids import Uint64, WireHash, WireHeight
from quorate.chain.transaction import PAYLOAD_BYTES_MAX, TRANSACTION_BYTES_MAX
from quorate.chain.vote import Proposal, Vote

from consensus.status import RoundStatus
from p2p.network import BODY_BYTES_MAX, REQUEST_BYTES_MAX, STATUS_BYTES_MAX

VOTES_PER_MESSAGE_MAX = 256
TRANSACTIONS_PER_MESSAGE_MAX = 2048
TRANSACTION_BATCH_BYTES_MAX = 512 * 1024
HASHES_PER_MESSAGE_MAX = 1024
EVIDENCE_PER_MESSAGE_MAX = 16
ANNOUNCEMENTS_PER_MESSAGE_MAX = 16
BLOCKS_PER_ANSWER_MAX = 128
RIDING_PAYLOAD_BYTES_MAX = 64 * 1024
"""Payloads up to this size travel with their transaction; larger ones are pulled."""
RANGE_BYTES_MAX = 1 << 20
"""The most bytes of a block that one answer carries."""
CHUNKS_MAX = PAYLOAD_BYTES_MAX // CHUNK_BYTES
"""Chunks of the largest payload that a transaction may name."""
NEIGHBOURS_MAX = 256
NEIGHBOUR_BYTES = 8

Count = Annotated[int, Meta(ge=1, le=BLOCKS_PER_ANSWER_MAX)]
Length = Annotated[int, Meta(ge=1, le=RANGE_BYTES_MAX)]


class ProposalMessage(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=1):
    """A signed proposal; the block's parts follow in messages of their own."""

    proposal: Proposal


class PartMessage(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=2):
    """One part of a proposed block, named by the root over its parts."""

    height: WireHeight
    parts_root: WireHash
    part: BlockPart


class VotesMessage(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=3):
    """Votes of any heights and rounds."""

    votes: Annotated[tuple[Vote, ...], Meta(min_length=1, max_length=VOTES_PER_MESSAGE_MAX)]


class TransactionEntry(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A signed transaction, and its payload if it has one and it is small."""

    transaction: Annotated[bytes, Meta(min_length=1, max_length=TRANSACTION_BYTES_MAX)]
    payload: Annotated[bytes, Meta(min_length=1, max_length=RIDING_PAYLOAD_BYTES_MAX)] | None


class TransactionsMessage(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=4):
    """New transactions, in an order that keeps each sender's nonces rising."""

    entries: Annotated[
        tuple[TransactionEntry, ...], Meta(min_length=1, max_length=TRANSACTIONS_PER_MESSAGE_MAX)
    ]


class PendingHashesMessage(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=5):
    """Hashes of transactions that have been pending for a while: who lacks one asks for it."""

    hashes: Annotated[tuple[WireHash, ...], Meta(min_length=1, max_length=HASHES_PER_MESSAGE_MAX)]


class EvidenceMessage(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=6):
    """Encoded evidence of misbehaviour."""

    evidence: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=EVIDENCE_PER_MESSAGE_MAX)]


class PayloadAnnouncementsMessage(
    Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=7
):
    """What validators have on their disks, in their own signed words."""

    announcements: Annotated[
        tuple[PayloadAnnouncement, ...],
        Meta(min_length=1, max_length=ANNOUNCEMENTS_PER_MESSAGE_MAX),
    ]


Message = (
    ProposalMessage
    | PartMessage
    | VotesMessage
    | TransactionsMessage
    | PendingHashesMessage
    | EvidenceMessage
    | PayloadAnnouncementsMessage
)


class PartsStatus(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Which parts of a proposed block a node has: bit i of the bitmap (little endian) is part i."""

    parts_root: WireHash
    bitmap: Annotated[bytes, Meta(max_length=PARTS_MAX // 8)]


class NodeStatus(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What rides on each heartbeat.

    `height` is the last decided one. `neighbours` names the node's linked peers by the first
    8 bytes of the SHA-256 of their ids, so that messages are relayed only where they are new.
    """

    height: WireHeight
    earliest_height: WireHeight
    round_status: RoundStatus | None
    parts: tuple[PartsStatus, ...]
    neighbours: Annotated[
        tuple[Annotated[bytes, Meta(min_length=NEIGHBOUR_BYTES, max_length=NEIGHBOUR_BYTES)], ...],
        Meta(max_length=NEIGHBOURS_MAX),
    ]


class GetBlocks(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=1):
    """Ask for decided blocks with their commits, in order from `start`."""

    start: WireHeight
    count: Count


class GetBlockRange(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=2):
    """Ask for a slice of one decided block that is too large for one answer."""

    height: WireHeight
    offset: Uint64
    length: Length


class GetTransactions(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=4):
    """Ask for pending transactions by hash; answered with a `TransactionsMessage`."""

    hashes: Annotated[tuple[WireHash, ...], Meta(min_length=1, max_length=HASHES_PER_MESSAGE_MAX)]


class GetChunkHashes(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=5):
    """Ask for the size of a payload and the hashes of its chunks."""

    payload_hash: WireHash


class GetChunk(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=6):
    """Ask for one chunk of a payload; the answer is its bytes and nothing else."""

    payload_hash: WireHash
    index: Annotated[int, Meta(ge=0, lt=CHUNKS_MAX)]


Request = GetBlocks | GetBlockRange | GetTransactions | GetChunkHashes | GetChunk


class StoredBlock(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The canonical bytes of a decided block and of its commit."""

    block: bytes
    commit: bytes


class BlocksAnswer(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Decided blocks; when the first does not fit, its size and commit alone."""

    blocks: Annotated[tuple[StoredBlock, ...], Meta(max_length=BLOCKS_PER_ANSWER_MAX)]
    large_block_bytes: Uint64
    large_block_commit: bytes


class RangeAnswer(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A slice, and the size of the whole."""

    total: Uint64
    data: Annotated[bytes, Meta(max_length=RANGE_BYTES_MAX)]


class ChunkHashesAnswer(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The size of a payload and the hashes of its chunks, which belong to its address."""

    size: Uint64
    chunk_hashes: Annotated[tuple[WireHash, ...], Meta(max_length=CHUNKS_MAX)]


def decode_message(body: bytes) -> Message:
    """Return the link message that `body` holds; raises `DecodeError`."""
    return decode(Message, body, BODY_BYTES_MAX)  # type: ignore[arg-type]


def decode_status(body: bytes) -> NodeStatus:
    """Return the status that `body` holds; raises `DecodeError`."""
    return decode(NodeStatus, body, STATUS_BYTES_MAX)


def decode_request(body: bytes) -> Request:
    """Return the request that `body` holds; raises `DecodeError`."""
    return decode(Request, body, REQUEST_BYTES_MAX)  # type: ignore[arg-type]


def encode_message(
    message: Message | NodeStatus | Request | BlocksAnswer | RangeAnswer | ChunkHashesAnswer,
) -> bytes:
    """Return the canonical bytes of a message, status, request or answer."""
    return encode(message)


def compute_neighbour(peer_id: str) -> bytes:
    """Return the short name of a peer in `NodeStatus.neighbours`, 8 bytes."""
    return sha256(peer_id.encode()).digest()[:NEIGHBOUR_BYTES]
