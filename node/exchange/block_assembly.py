"""Proposed blocks on their way: their parts, until they are whole.

Owns the parts of the blocks proposed at the current height. Never decodes a block and never talks
to a peer. Bounded: at most `ASSEMBLIES_MAX` blocks at a time, each of at most `PARTS_MAX` parts.
"""

from dataclasses import dataclass, field

from quorate.chain.block import BlockPart, is_part_valid, split_block
from quorate.chain.ids import Hash, Height
from quorate.chain.vote import BlockId

ASSEMBLIES_MAX = 32
"""Blocks in the making at one height. One per round and proposer is ordinary."""


@dataclass(slots=True)
class PartSet:
    """The parts of one block, as they arrive."""

    block_id: BlockId
    parts: dict[int, BlockPart] = field(default_factory=dict)
    raw: bytes | None = None

    def add(self, part: BlockPart) -> bool:
        """Keep a part that belongs here; tell whether it was new."""
        if part.index in self.parts or not is_part_valid(part, self.block_id):
            return False
        self.parts[part.index] = part
        if len(self.parts) == self.block_id.part_count:
            self.raw = b"".join(self.parts[index].data for index in range(self.block_id.part_count))
        return True

    @property
    def bitmap(self) -> bytes:
        """Bit i (little endian) is set if part i is here."""
        bits = sum(1 << index for index in self.parts)
        return bits.to_bytes((self.block_id.part_count + 7) // 8, "little")


class BlockAssembly:
    """The blocks proposed at one height, named by the root over their parts."""

    def __init__(self) -> None:
        self.height = Height(0)
        self._sets: dict[Hash, PartSet] = {}

    def start_height(self, height: Height) -> None:
        """Forget the last height's blocks."""
        self.height = height
        self._sets.clear()

    def expect(self, block_id: BlockId) -> PartSet:
        """Begin to collect a block's parts, or go on with it.

        The oldest unfinished block makes room when there are too many.
        """
        known = self._sets.get(block_id.parts_root)
        if known is not None:
            return known
        if len(self._sets) >= ASSEMBLIES_MAX:
            unfinished = [root for root, parts in self._sets.items() if parts.raw is None]
            del self._sets[unfinished[0] if unfinished else next(iter(self._sets))]
        parts = PartSet(block_id)
        self._sets[block_id.parts_root] = parts
        return parts

    def add_whole(self, block_id: BlockId, raw: bytes) -> PartSet:
        """Keep a block that is whole already: an own proposal, or one fetched with its commit."""
        parts = self.expect(block_id)
        if parts.raw is None:
            _, slices = split_block(raw)
            for part in slices:
                parts.add(part)
        return parts

    def add_part(self, parts_root: Hash, part: BlockPart) -> PartSet | None:
        """Keep a part of an expected block; return its set if the part was new."""
        parts = self._sets.get(parts_root)
        return parts if parts is not None and parts.add(part) else None

    def get(self, parts_root: Hash) -> PartSet | None:
        """Return the parts of a block, if it is expected."""
        return self._sets.get(parts_root)

    def part_sets(self) -> tuple[PartSet, ...]:
        """Return all blocks in the making, oldest first."""
        return tuple(self._sets.values())
