"""What the execution of a block is given from outside.

Owns the block's context and the sources of payloads. Never executes anything.
"""

from dataclasses import dataclass
from typing import Protocol

from quorate.chain.evidence import DuplicateVoteEvidence
from quorate.chain.ids import NO_HASH, Address, Hash
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.validators import ValidatorSet

from aggregation import PayloadBytes


@dataclass(frozen=True)
class BlockContext:
    """What a block's transactions are executed under.

    Attributes
    ----------
    chain_id : str
    height : int
    time_ms : int
        The block's own time.
    proposer : bytes, 20
        Who made the block and receives its fees.
    validators : ValidatorSet
        Of this height.
    parameters : ConsensusParameters
        In force at this height.
    evidence : tuple of DuplicateVoteEvidence
        Of this block; verified by the caller, its age included.
    last_block_hash : bytes, 32
        Of the block before this one; empty at the initial height.
    """

    chain_id: str
    height: int
    time_ms: int
    proposer: Address
    validators: ValidatorSet
    parameters: ConsensusParameters
    evidence: tuple[DuplicateVoteEvidence, ...] = ()
    last_block_hash: Hash = NO_HASH


class PayloadSource(Protocol):
    """Payloads, weights and optimizer states by their SHA-256; the source has checked it."""

    def size(self, payload_hash: Hash, /) -> int | None:
        """Return how many bytes it has, without reading them, or None while it is not here."""

    def open_memmap(self, payload_hash: Hash, /) -> PayloadBytes | None:
        """Return the bytes by slices, which need not be in memory, or None while it is not here.

        Background aggregation calls this from another thread.
        """
