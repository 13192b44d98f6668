"""Blocks: what a header commits to, the parts a block travels in, and its receipts."""

import msgspec
import pytest
from quorate.chain.block import (
    PART_BYTES,
    PARTS_MAX,
    Block,
    BlockPart,
    Header,
    Version,
    compute_block_id,
    compute_last_commit_root,
    compute_transactions_root,
    is_part_valid,
    split_block,
    validate_block_structure,
)
from quorate.chain.codec import decode, encode
from quorate.chain.errors import BlockError, DecodeError
from quorate.chain.merkle import MerkleProof, compute_root
from quorate.chain.parameters import BLOCK_BYTES_MAX, ConsensusParameters
from quorate.chain.receipt import RECEIPTS_BYTES_MAX, BlockReceipts
from quorate.chain.vote import BlockId

from tests.chain.samples import KEYS, make_block, make_hash, make_receipts

BLOCK = make_block()
OTHERS = {
    "chain_id": "samples-2",
    "version": Version(1, 2),
    "height": 9,
    "time_ms": 5,
    "last_block_id": None,
    "proposer": KEYS[0].address,
}


def change(header: Header, name: str, value: object) -> Header:
    return msgspec.structs.replace(header, **{name: value})


def with_header(name: str, value: object) -> Block:
    return msgspec.structs.replace(BLOCK, header=change(BLOCK.header, name, value))


def test_the_hash_covers_every_field_of_the_header() -> None:
    hashes = {BLOCK.header.hash}
    for name in Header.__struct_fields__:
        other = change(BLOCK.header, name, OTHERS.get(name, make_hash("other")))
        assert other != BLOCK.header
        hashes.add(other.hash)
    assert len(hashes) == len(Header.__struct_fields__) + 1


def test_a_sound_block_passes() -> None:
    validate_block_structure(BLOCK)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("version", Version(2, 1), "unknown block version 2/1"),
        ("version", Version(1, 2), "unknown block version 1/2"),
        ("transactions_root", make_hash("x"), "transactions_root"),
        ("evidence_root", make_hash("x"), "evidence_root"),
        ("last_commit_root", make_hash("x"), "last_commit_root"),
        ("last_commit_root", b"", "last_commit_root"),
        ("last_block_id", None, "exactly when it has a parent"),
    ],
)
def test_a_header_that_does_not_fit_its_block_is_refused(
    name: str, value: object, sentence: str
) -> None:
    with pytest.raises(BlockError, match=sentence):
        validate_block_structure(with_header(name, value))


def test_contents_that_do_not_fit_their_header_are_refused() -> None:
    for altered in (
        msgspec.structs.replace(BLOCK, transactions=BLOCK.transactions[::-1]),
        msgspec.structs.replace(BLOCK, transactions=BLOCK.transactions[:1]),
        msgspec.structs.replace(BLOCK, evidence=()),
        msgspec.structs.replace(BLOCK, last_commit=None),
    ):
        with pytest.raises(BlockError):
            validate_block_structure(altered)


def test_the_first_block_has_neither_parent_nor_commit() -> None:
    header = change(BLOCK.header, "last_block_id", None)
    header = change(header, "last_commit_root", compute_last_commit_root(None))
    first = msgspec.structs.replace(BLOCK, header=header, last_commit=None)
    validate_block_structure(first)
    assert decode(Block, encode(first), BLOCK_BYTES_MAX) == first


def test_transactions_root_is_the_tree_over_their_bytes() -> None:
    assert compute_transactions_root(BLOCK.transactions) == compute_root(BLOCK.transactions)
    assert compute_transactions_root(()) == compute_root([])


@pytest.mark.parametrize(
    ("size", "count"),
    [(1, 1), (PART_BYTES, 1), (PART_BYTES + 1, 2), (5 * PART_BYTES, 5), (BLOCK_BYTES_MAX, 256)],
)
def test_parts_put_together_are_the_block(size: int, count: int) -> None:
    raw = (b"\x00\x01\x02" * (size // 3 + 1))[:size]
    root, parts = split_block(raw)
    block_id = BlockId(make_hash("header"), count, root)
    assert len(parts) == count <= PARTS_MAX
    assert b"".join(part.data for part in parts) == raw
    assert [part.index for part in parts] == list(range(count))
    assert all(is_part_valid(part, block_id) for part in parts)
    assert decode(BlockPart, encode(parts[-1]), 2 * PART_BYTES) == parts[-1]


def test_a_part_of_another_block_or_place_is_refused() -> None:
    raw = bytes(3 * PART_BYTES)
    root, parts = split_block(raw[:-1] + b"\x01")
    block_id = BlockId(make_hash("header"), 3, root)
    first, last = parts[0], parts[2]
    assert not is_part_valid(BlockPart(first.proof, first.data[:-1] + b"\x01"), block_id)
    assert not is_part_valid(BlockPart(first.proof, last.data), block_id)
    moved = MerkleProof(1, 3, first.proof.siblings)
    assert not is_part_valid(BlockPart(moved, last.data), block_id)
    assert not is_part_valid(first, BlockId(make_hash("header"), 3, make_hash("root")))
    assert not is_part_valid(first, BlockId(make_hash("header"), 4, root))
    with pytest.raises(DecodeError):
        decode(BlockPart, encode(BlockPart(first.proof, bytes(PART_BYTES + 1))), 1 << 20)
    with pytest.raises(DecodeError):
        decode(BlockPart, encode(BlockPart(first.proof, b"")), 1 << 20)


def test_a_block_id_names_header_and_parts() -> None:
    raw = encode(BLOCK)
    block_id = compute_block_id(BLOCK, raw)
    assert block_id.hash == BLOCK.header.hash
    assert block_id.part_count == len(split_block(raw)[1])
    assert block_id.parts_root == split_block(raw)[0]


def test_the_receipts_root_covers_both_kinds_in_order() -> None:
    receipts = make_receipts()
    assert receipts.root == compute_root(
        [encode(receipts.transactions[0]), encode(receipts.rounds[0])]
    )
    assert receipts.root != BlockReceipts(receipts.transactions, ()).root
    assert decode(BlockReceipts, encode(receipts), RECEIPTS_BYTES_MAX) == receipts


def test_every_parameter_is_covered_by_their_root() -> None:
    default = ConsensusParameters()
    roots = {default.root}
    for name in ConsensusParameters.__struct_fields__:
        roots.add(msgspec.structs.replace(default, **{name: getattr(default, name) + 1}).root)
    assert len(roots) == len(ConsensusParameters.__struct_fields__) + 1
