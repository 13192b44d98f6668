"""Where the chain stands: what the next block builds on.

Owns the position after the last decided block and its stored form. Never changes a position: each
decided block makes a new one.
"""

from dataclasses import dataclass

from msgspec import Struct
from quorate.chain.block import Header
from quorate.chain.codec import decode, encode
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Hash, Height, Uint64, WireHash, WireHeight
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.validators import Validator, ValidatorSet, ValidatorUpdate
from quorate.chain.vote import BlockId, Commit

POSITION_DOCUMENT = "position"
POSITION_BYTES_MAX = 1 << 20


class StoredPosition(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The record of a position that is kept with each decided block."""

    height: WireHeight
    block_id: BlockId | None
    time_ms: Uint64
    last_validators: tuple[Validator, ...]
    validators: tuple[Validator, ...]
    next_validators: tuple[Validator, ...]
    parameters: ConsensusParameters
    state_root: WireHash
    model_root: WireHash


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """The position after the last decided block, or at genesis.

    Attributes
    ----------
    height : Height
        Of the last decided block; one less than the initial height at genesis.
    block_id, commit : BlockId, Commit or None
        Of the last decided block; None at genesis.
    time_ms : int
        Its block time; the genesis time at genesis.
    last_validators, validators, next_validators : ValidatorSet
        Those of `height`, of `height + 1` and of `height + 2`. Changes that a block asks for take
        effect two heights later.
    parameters : ConsensusParameters
        In force for the next block.
    state_root, model_root : bytes, 32
        After the last decided block.
    """

    height: Height
    block_id: BlockId | None
    commit: Commit | None
    time_ms: int
    last_validators: ValidatorSet
    validators: ValidatorSet
    next_validators: ValidatorSet
    parameters: ConsensusParameters
    state_root: Hash
    model_root: Hash

    @property
    def next_height(self) -> Height:
        """The height of the next block."""
        return Height(self.height + 1)

    def advance(
        self,
        header: Header,
        commit: Commit,
        updates: tuple[ValidatorUpdate, ...],
        parameters: ConsensusParameters,
    ) -> "ChainPosition":
        """Return the position after a decided block.

        Parameters
        ----------
        header : Header
            Of the decided block.
        commit : Commit
            Its proof.
        updates : tuple of ValidatorUpdate
            What executing it asks of the validator set.
        parameters : ConsensusParameters
            In force after it.
        """
        changed = self.next_validators.apply_updates(updates) if updates else self.next_validators
        return ChainPosition(
            header.height,
            commit.block_id,
            commit,
            header.time_ms,
            self.validators,
            self.next_validators,
            changed.advance(1),
            parameters,
            header.state_root,
            header.model_root,
        )

    def encode(self) -> bytes:
        """Return the stored form; the commit is stored beside its block."""
        return encode(
            StoredPosition(
                self.height,
                self.block_id,
                self.time_ms,
                self.last_validators.validators,
                self.validators.validators,
                self.next_validators.validators,
                self.parameters,
                self.state_root,
                self.model_root,
            )
        )


def make_genesis_position(genesis: Genesis, state_root: Hash, model_root: Hash) -> ChainPosition:
    """Return the position before the first block."""
    validators = genesis.validator_set
    return ChainPosition(
        Height(genesis.initial_height - 1),
        None,
        None,
        genesis.genesis_time_ms,
        validators,
        validators,
        validators.advance(1),
        genesis.parameters,
        state_root,
        model_root,
    )


def decode_position(raw: bytes, commit: Commit | None) -> ChainPosition:
    """Return the position that `raw` records; raises `DecodeError`."""
    stored = decode(StoredPosition, raw, POSITION_BYTES_MAX)
    return ChainPosition(
        stored.height,
        stored.block_id,
        commit,
        stored.time_ms,
        ValidatorSet(stored.last_validators),
        ValidatorSet(stored.validators),
        ValidatorSet(stored.next_validators),
        stored.parameters,
        stored.state_root,
        stored.model_root,
    )
