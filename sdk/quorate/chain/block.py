"""Blocks and headers, and the parts that a block travels in.

Owns their types, hashes and the checks that need no state. Never executes a block and never
decides whether its roots are right.
"""

from hashlib import sha256
from typing import Annotated

from msgspec import Meta, Struct

from quorate.chain.codec import encode
from quorate.chain.errors import BlockError
from quorate.chain.ids import (
    ChainId,
    Hash,
    OptionalHash,
    Uint32,
    Uint64,
    WireAddress,
    WireHash,
    WireHeight,
)
from quorate.chain.merkle import MerkleProof, compute_proofs, compute_root, is_proof_valid
from quorate.chain.parameters import BLOCK_BYTES_MAX
from quorate.chain.vote import BlockId, Commit

BLOCK_VERSION = 1
APP_VERSION = 1
PART_BYTES = 65_536
PARTS_MAX = BLOCK_BYTES_MAX // PART_BYTES
TRANSACTIONS_PER_BLOCK_MAX = 20_000
EVIDENCE_PER_BLOCK_MAX = 64

_HEADER_PREFIX = b"quorate/header\0"


class Version(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The protocol of the block's format, and that of the ledger's rules."""

    block: Uint32
    app: Uint32


class Header(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a quorum of validators signs by its hash.

    `state_root`, `receipts_root` and `model_root` are those after executing *this* block.
    `last_block_id` is None at the initial height alone.
    """

    chain_id: ChainId
    version: Version
    height: WireHeight
    time_ms: Uint64
    last_block_id: BlockId | None
    last_commit_root: OptionalHash
    transactions_root: WireHash
    evidence_root: WireHash
    validators_root: WireHash
    next_validators_root: WireHash
    consensus_parameters_root: WireHash
    state_root: WireHash
    receipts_root: WireHash
    model_root: WireHash
    proposer: WireAddress

    @property
    def hash(self) -> Hash:
        """The block's hash: SHA-256 over a prefix and the header's canonical bytes."""
        return Hash(sha256(_HEADER_PREFIX + encode(self)).digest())


class Block(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A header, the signed transactions and evidence it commits to, and its parent's commit."""

    header: Header
    transactions: Annotated[tuple[bytes, ...], Meta(max_length=TRANSACTIONS_PER_BLOCK_MAX)]
    evidence: Annotated[tuple[bytes, ...], Meta(max_length=EVIDENCE_PER_BLOCK_MAX)]
    last_commit: Commit | None


class BlockPart(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One slice of at most 64 KiB of an encoded block, with the proof of its place."""

    proof: MerkleProof
    data: Annotated[bytes, Meta(min_length=1, max_length=PART_BYTES)]

    @property
    def index(self) -> int:
        """Its place among the parts; the proof's index is the only one there is."""
        return self.proof.index


def compute_last_commit_root(commit: Commit | None) -> Hash:
    """Return the root over a commit's canonical bytes; the empty hash at the initial height."""
    return Hash(b"") if commit is None else Hash(sha256(encode(commit)).digest())


def compute_transactions_root(transactions: tuple[bytes, ...]) -> Hash:
    """Return the Merkle root over the signed transactions' bytes."""
    return compute_root(transactions)


def split_block(raw: bytes) -> tuple[Hash, list[BlockPart]]:
    """Cut an encoded block into parts.

    Returns
    -------
    hash
        The root over the parts.
    list of BlockPart
        In order, each with its proof.
    """
    slices = [raw[start : start + PART_BYTES] for start in range(0, len(raw), PART_BYTES)]
    root, proofs = compute_proofs(slices)
    return root, [BlockPart(proof, data) for proof, data in zip(proofs, slices, strict=True)]


def is_part_valid(part: BlockPart, block_id: BlockId) -> bool:
    """Tell whether a part belongs to the block that `block_id` names."""
    return part.proof.total == block_id.part_count and is_proof_valid(
        part.proof, block_id.parts_root, part.data
    )


def compute_block_id(block: Block, raw: bytes) -> BlockId:
    """Return the identity of a block whose canonical bytes are `raw`."""
    root, parts = split_block(raw)
    return BlockId(block.header.hash, len(parts), root)


def validate_block_structure(block: Block) -> None:
    """Check that the header commits to the block's own contents.

    Raises
    ------
    BlockError
        If a root in the header is not that of the contents.
    """
    header = block.header
    if header.version != Version(BLOCK_VERSION, APP_VERSION):
        raise BlockError(f"unknown block version {header.version.block}/{header.version.app}")
    if header.transactions_root != compute_transactions_root(block.transactions):
        raise BlockError("transactions_root is not the root of the block's transactions")
    if header.evidence_root != compute_root(block.evidence):
        raise BlockError("evidence_root is not the root of the block's evidence")
    if header.last_commit_root != compute_last_commit_root(block.last_commit):
        raise BlockError("last_commit_root is not the root of the block's last commit")
    if (header.last_block_id is None) != (block.last_commit is None):
        raise BlockError("a block has a last commit exactly when it has a parent")
