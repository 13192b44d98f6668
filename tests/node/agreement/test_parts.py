"""Blocks in the making and the inbox: what belongs, what does not, and how much of it."""

import os

import pytest
import trio
from msgspec.structs import replace
from quorate.chain.block import PART_BYTES, BlockPart, split_block
from quorate.chain.ids import Hash, Height, Round
from quorate.chain.merkle import MerkleProof
from quorate.chain.vote import BlockId

from consensus.inputs import TimeoutElapsed, TimeoutKind
from node.agreement.block_assembly import ASSEMBLIES_MAX, BlockAssembly
from node.agreement.inbox import INBOX_MAX, Inbox, Incoming
from p2p.network import PeerId

RAW = os.urandom(3 * PART_BYTES + 17)
ROOT, PARTS = split_block(RAW)
BLOCK = BlockId(Hash(b"\x01" * 32), len(PARTS), ROOT)
ITEM = Incoming(TimeoutElapsed(TimeoutKind.PROPOSE, Height(1), Round(0)), PeerId("p"))


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


async def test_a_full_inbox_drops_what_peers_send_and_keeps_room_for_the_node() -> None:
    inbox = Inbox()
    for _ in range(INBOX_MAX + 3):
        inbox.put_from_peer(ITEM)
    assert (len(inbox), inbox.dropped) == (INBOX_MAX, 3)
    own = Incoming(ITEM.input)
    inbox.put_own(own)
    taken = [inbox.get_nowait() for _ in range(len(inbox))]
    assert taken[-1] is own
    with pytest.raises(trio.WouldBlock):
        inbox.get_nowait()


async def test_a_call_to_look_is_left_once() -> None:
    inbox = Inbox()
    for _ in range(3):
        inbox.wake()
    assert await inbox.get() is None
    inbox.put_own(ITEM)
    inbox.wake()
    assert len(inbox) == 1
