"""Faults of others in what a message may say; sources in docs/known_faults.md."""

import pytest
from msgspec.structs import replace
from quorate.chain.block import PART_BYTES, BlockPart, is_part_valid, split_block
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError
from quorate.chain.ids import Hash, Height, Round, Signature
from quorate.chain.merkle import MerkleProof
from quorate.chain.parameters import BLOCK_BYTES_MAX, ConsensusParameters
from quorate.chain.vote import BlockId, Vote, VoteType

from consensus.inputs import CommitReceived, VoteReceived
from consensus.status import RoundBits, RoundStatus, Step
from node.exchange.block_assembly import BlockAssembly
from node.exchange.broadcasting import Broadcaster
from node.execution.block_checks import is_size_allowed
from p2p.network import PeerId
from tests.consensus.scenario import Scenario, make_block, make_keys, sign_vote
from tests.node.exchange.scripted import ScriptedNetwork


def make_parts(count: int) -> tuple[BlockId, list[BlockPart]]:
    raw = b"".join(bytes([number]) * PART_BYTES for number in range(count))
    root, parts = split_block(raw)
    return BlockId(Hash(bytes(32)), count, root), parts


def test_the_index_of_a_part_differs_from_that_of_its_proof() -> None:
    block_id, parts = make_parts(4)
    # A part has no index of its own to differ: it is where its proof says, or nowhere.
    assert BlockPart.__struct_fields__ == ("proof", "data")
    with pytest.raises(DecodeError):
        decode(BlockPart, encode((3, parts[0].proof, parts[0].data)), 1 << 20)
    for part in parts:
        for index in range(5):
            moved = MerkleProof(index, part.proof.total, part.proof.siblings)
            is_its_own = index == part.index
            assert is_part_valid(BlockPart(moved, part.data), block_id) is is_its_own
    assembly = BlockAssembly()
    assembly.expect(block_id)
    lie = BlockPart(MerkleProof(1, 4, parts[0].proof.siblings), parts[0].data)
    assert assembly.add_part(block_id.parts_root, lie) is None
    for part in parts:
        assembly.add_part(block_id.parts_root, part)
    whole = assembly.get(block_id.parts_root)
    assert whole is not None
    assert whole.raw == b"".join(part.data for part in parts)


@pytest.mark.parametrize("bitmap", [b"", b"\x00", b"\xff", b"\x00" * 128, b"\xff" * 128])
def test_a_bit_array_has_another_length_than_what_it_is_about(bitmap: bytes) -> None:
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.prevote("ABC", "X")
    status = RoundStatus(
        Height(1), Round(0), Step.PREVOTE, (RoundBits(Round(0), True, bitmap, bitmap),)
    )
    votes = [each for each in scenario.driver.get_repairs(status, 100) if isinstance(each, Vote)]
    has_all = bitmap.startswith(b"\xff")
    assert len(votes) == (0 if has_all else 3)
    block_id, parts = make_parts(4)
    assembly = BlockAssembly()
    held = assembly.expect(block_id)
    for part in parts:
        assembly.add_part(block_id.parts_root, part)
    network = ScriptedNetwork(a=None)  # type: ignore[arg-type]
    broadcaster = Broadcaster(network)  # type: ignore[arg-type]
    broadcaster.send_parts_to(PeerId("a"), Height(1), held, bitmap, 16)
    assert len(network.sent) == (0 if has_all else 4)


def test_a_vote_names_a_validator_index_out_of_range() -> None:
    # A vote has no index: it names an address, which the set knows or not.
    assert "index" not in " ".join(Vote.__struct_fields__)
    scenario = Scenario("D")
    scenario.start()
    stranger = make_keys(9)[8]
    assert stranger.address not in scenario.validators.by_address
    for type_ in VoteType:
        for height in (1, 2):
            vote = sign_vote(stranger, type_, height, 0, make_block("X"))
            assert scenario.feed(VoteReceived(vote), with_relays=True) == []
    # The one list by index is a commit's; of another length it proves nothing, and stops nobody.
    good = scenario.make_commit("ABC", "X")
    for signatures in (good.signatures[:1], (*good.signatures, Signature(bytes(64)) * 3)):
        wrong = replace(good, signatures=signatures)
        assert scenario.feed(CommitReceived(wrong)) == []
    assert scenario.driver.commit is None
    scenario.commit("ABC", "X")
    assert scenario.driver.commit == good


def test_a_large_default_block_size_slows_consensus() -> None:
    assert ConsensusParameters().block_bytes_max <= 4 << 20 < BLOCK_BYTES_MAX
    # One that would be too large is known before a single part of it is here.
    limit = ConsensusParameters().block_bytes_max
    allowed = limit // PART_BYTES
    for count, is_allowed in ((allowed, True), (allowed + 1, False), (256, False)):
        block_id = BlockId(Hash(bytes(32)), count, Hash(bytes(32)))
        assert is_size_allowed(block_id, limit) is is_allowed
    with pytest.raises(DecodeError):
        decode(BlockId, encode((bytes(32), 257, bytes(32))), 1000)
