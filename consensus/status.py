"""What a node tells its peers about its round, so that they send what it lacks.

Owns the wire type and its bitmaps. Never believed: a wrong status costs its sender messages that
it has no use for.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct
from quorate.chain.ids import Round, WireHeight, WireRound
from quorate.chain.validators import VALIDATORS_MAX

BITMAP_BYTES_MAX = VALIDATORS_MAX // 8
STATUS_ROUNDS_MAX = 8
ROUND_STATUS_BYTES_MAX = 4096
"""The longest encoded status: `STATUS_ROUNDS_MAX` rounds with two full bitmaps each fit."""

Bitmap = Annotated[bytes, Meta(max_length=BITMAP_BYTES_MAX)]
"""Bit i, counted from the lowest bit of the first byte, stands for the i-th validator."""


class Step(IntEnum):
    """Where a node stands in its round; DECIDED is the rest until the next height starts."""

    PROPOSE = 1
    PREVOTE = 2
    PRECOMMIT = 3
    DECIDED = 4


class RoundBits(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The messages of one round that a node needs no more: bits of votes it has or can't use."""

    round: WireRound
    has_proposal: bool
    prevotes: Bitmap
    precommits: Bitmap


class RoundStatus(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Height, round and step of a node, and what it has of the rounds it can use messages of.

    `rounds` holds the current round first, then its valid rounds, then later rounds seen. A node
    between heights names the height it has decided.
    """

    height: WireHeight
    round: WireRound
    step: Step
    rounds: Annotated[tuple[RoundBits, ...], Meta(max_length=STATUS_ROUNDS_MAX)]

    @property
    def has_proposal(self) -> bool:
        """Tell whether the node has the proposal of its current round."""
        return any(bits.has_proposal for bits in self.rounds if bits.round == self.round)


def get_bits(status: RoundStatus, round_: int) -> RoundBits:
    """Return what `status` says of a round; nothing is had of a round that is not named."""
    for bits in status.rounds:
        if bits.round == round_:
            return bits
    return RoundBits(Round(round_), has_proposal=False, prevotes=b"", precommits=b"")


def make_bitmap(bits: int) -> bytes:
    """Return the bytes of a bitmap held as an integer, bit i for validator i."""
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def read_bitmap(raw: bytes) -> int:
    """Return a bitmap as an integer. Bits beyond the validators in use are the reader's to drop."""
    return int.from_bytes(raw, "little")
