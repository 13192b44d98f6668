"""What the consensus driver is fed, and how it is written to the log.

Owns the inputs and their canonical encoding. Never holds state: the same inputs in the same order
lead any driver to the same state, so the log of inputs is all that a restart needs.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct
from quorate.chain.codec import decode, encode
from quorate.chain.ids import Uint64, WireHeight, WireRound
from quorate.chain.validators import VALIDATORS_MAX, Validator
from quorate.chain.vote import BlockId, Commit, Proposal, Vote

INPUT_BYTES_MAX = 128 * 1024
"""The longest encoded input: a commit or a validator set of `VALIDATORS_MAX` members fits."""


class TimeoutKind(IntEnum):
    """The three timeouts of Algorithm 1."""

    PROPOSE = 1
    PREVOTE = 2
    PRECOMMIT = 3


class StartHeight(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=1):
    """Begin a height with its validators.

    `precision_ms` and `message_delay_ms` are the bounds of proposer-based timestamps. `now_ms`
    tells readers of the log when the height began; no rule depends on it.
    """

    height: WireHeight
    validators: Annotated[tuple[Validator, ...], Meta(min_length=1, max_length=VALIDATORS_MAX)]
    now_ms: Uint64
    precision_ms: Uint64
    message_delay_ms: Uint64


class ProposalReceived(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=2):
    """A proposal came, at this time of the node's clock: timeliness is fixed here."""

    proposal: Proposal
    received_ms: Uint64


class ProposalJudged(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=3):
    """The verdict valid(v) on a block, and the time in the block's own header.

    It is about the block alone. A proposal that claims another time for the block than `time_ms`
    is refused by the driver when it is fresh (L22), which taints no other proposal of the block.
    For an invalid block `time_ms` means nothing.
    """

    height: WireHeight
    block_id: BlockId
    is_valid: bool
    time_ms: Uint64


class VoteReceived(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=4):
    """A vote came, a peer's or this validator's own."""

    vote: Vote


class CommitReceived(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=5):
    """A peer's proof that the current height is decided."""

    commit: Commit


class ProposeBlock(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=6):
    """The node's answer to `RequestProposal`: getValue() of Algorithm 1, L18."""

    height: WireHeight
    round: WireRound
    block_id: BlockId
    time_ms: Uint64


class TimeoutElapsed(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=7):
    """A scheduled timeout is over (L57, L61, L65)."""

    kind: TimeoutKind
    height: WireHeight
    round: WireRound


Input = (
    StartHeight
    | ProposalReceived
    | ProposalJudged
    | VoteReceived
    | CommitReceived
    | ProposeBlock
    | TimeoutElapsed
)


def encode_input(input_: Input) -> bytes:
    """Return the canonical bytes of an input, for the log."""
    return encode(input_)


def decode_input(raw: bytes) -> Input:
    """Return the input that `raw` encodes.

    Raises
    ------
    DecodeError
        If `raw` is longer than `INPUT_BYTES_MAX`, or not the canonical encoding of an input.
    """
    input_: Input = decode(Input, raw, INPUT_BYTES_MAX)  # type: ignore[arg-type]
    return input_
