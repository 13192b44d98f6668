"""Blocks in the making: what belongs to one, what does not, and how many there are."""

import os

from msgspec.structs import replace
from quorate.chain.block import PART_BYTES, BlockPart, split_block
from quorate.chain.ids import Hash, Height
from quorate.chain.merkle import MerkleProof
from quorate.chain.vote import BlockId

from node.exchange.block_assembly import ASSEMBLIES_MAX, BlockAssembly

RAW = os.urandom(3 * PART_BYTES + 17)
ROOT, PARTS = split_block(RAW)
BLOCK = BlockId(Hash(b"\x01" * 32), len(PARTS), ROOT)


def make_id(number: int) -> BlockId:
    return BlockId(Hash(number.to_bytes(32, "big")), 2, Hash(number.to_bytes(32, "big")))


def test_a_block_is_whole_with_its_last_part_in_any_order() -> None:
    assembly = BlockAssembly()
    parts = assembly.expect(BLOCK)
    for part in (PARTS[2], PARTS[0], PARTS[3]):
        assert assembly.add_part(ROOT, part) is parts
        assert parts.raw is None
    assert parts.bitmap == bytes([0b1101])
    assert assembly.add_part(ROOT, PARTS[2]) is None
    assert assembly.add_part(ROOT, PARTS[1]) is parts
    assert parts.raw == RAW


def test_foreign_parts_are_not_kept() -> None:
    assembly = BlockAssembly()
    assert assembly.add_part(ROOT, PARTS[0]) is None
    parts = assembly.expect(BLOCK)
    other_root, others = split_block(RAW[:-1])
    proof = PARTS[1].proof
    for part in (
        others[0],
        BlockPart(PARTS[1].proof, PARTS[2].data),
        BlockPart(replace(proof, index=0), PARTS[1].data),
        BlockPart(MerkleProof(9, 4, proof.siblings), PARTS[1].data),
        BlockPart(replace(proof, total=5), PARTS[1].data),
    ):
        assert assembly.add_part(ROOT, part) is None
    assert assembly.add_part(other_root, others[0]) is None
    assert parts.parts == {}


def test_a_whole_block_is_taken_only_under_its_own_name() -> None:
    assembly = BlockAssembly()
    assert assembly.add_whole(BLOCK, RAW).raw == RAW
    for raw in (b"", b"other", RAW[:-1]):
        other = make_id(len(raw))
        assert assembly.add_whole(other, raw).raw is None


def test_too_many_blocks_make_room_the_unfinished_first() -> None:
    assembly = BlockAssembly()
    whole = assembly.add_whole(BLOCK, RAW)
    for number in range(ASSEMBLIES_MAX + 5):
        assembly.expect(make_id(number + 1))
    assert len(assembly.part_sets()) == ASSEMBLIES_MAX
    assert assembly.get(ROOT) is whole
    assert assembly.get(make_id(1).parts_root) is None
    assert assembly.get(make_id(ASSEMBLIES_MAX + 5).parts_root) is not None


def test_a_new_height_forgets_the_last_ones_blocks() -> None:
    assembly = BlockAssembly()
    assembly.add_whole(BLOCK, RAW)
    assembly.start_height(Height(2))
    assert assembly.part_sets() == ()
    assert assembly.height == 2
