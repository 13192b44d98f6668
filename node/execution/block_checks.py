"""What a proposed block must show before it is executed: identity, header, last commit.

Owns these checks as functions of the block and the chain's position. Never executes a block and
never looks at its evidence or transactions.
"""

from quorate.chain.block import (
    PART_BYTES,
    Block,
    Header,
    compute_block_id,
    validate_block_structure,
)
from quorate.chain.codec import decode
from quorate.chain.errors import BlockError, CommitError, DecodeError
from quorate.chain.parameters import BLOCK_BYTES_MAX
from quorate.chain.vote import COMMIT_BYTES_MAX, BlockId, Commit, verify_commit

from ledger.execution import ExecutionResult
from node.execution.chain_position import ChainPosition


class DivergentRoots(BlockError):  # noqa: N818 - it says what is the matter.
    """Executing the block here gives other roots than its header has.

    Parameters
    ----------
    message : str
        Naming the first root that differs, with both values.
    result : ExecutionResult
        What was computed here.
    """

    def __init__(self, message: str, result: ExecutionResult) -> None:
        super().__init__(message)
        self.result = result


def is_size_allowed(block_id: BlockId, block_bytes_max: int) -> bool:
    """Tell whether a block of so many parts can be within the limit; known before it is here."""
    return (block_id.part_count - 1) * PART_BYTES < block_bytes_max


def decode_block(block_id: BlockId, raw: bytes, block_bytes_max: int) -> Block:
    """Return the block that `raw` encodes, if it is the one that `block_id` names.

    The whole id is compared: a header's hash names one body, but a proposer could cut that body
    into other parts, and a commit for them would lead nobody to the block.

    Raises
    ------
    BlockError
        If it is too long, not canonical, not the block of the id, or contradicts its own header.
    """
    try:
        block = decode(Block, raw, block_bytes_max)
    except DecodeError as error:
        raise BlockError(f"the block cannot be decoded: {error}") from error
    if block.header.hash != block_id.hash:
        raise BlockError("the block's header has another hash than was proposed")
    validate_block_structure(block)
    if compute_block_id(block, raw) != block_id:
        raise BlockError("the block is cut into other parts than its bytes have")
    return block


def validate_header(header: Header, chain_id: str, position: ChainPosition) -> None:
    """Compare what the header says of the chain with where the chain stands.

    Raises
    ------
    BlockError
        Naming the first field that differs.
    """
    for field, found, expected in (
        ("chain_id", header.chain_id, chain_id),
        ("height", header.height, position.next_height),
        ("last_block_id", header.last_block_id, position.block_id),
        ("validators_root", header.validators_root, position.validators.root),
        ("next_validators_root", header.next_validators_root, position.next_validators.root),
        ("consensus_parameters_root", header.consensus_parameters_root, position.parameters.root),
    ):
        if found != expected:
            raise BlockError(f"wrong {field} in the header")
    if header.proposer not in position.validators.by_address:
        raise BlockError("the block's creator is no validator of this height")
    if header.time_ms <= position.time_ms:
        raise BlockError(
            f"block time {header.time_ms} is not after its parent's {position.time_ms}"
        )


def validate_last_commit(block: Block, chain_id: str, position: ChainPosition) -> None:
    """Check the block's proof of its parent's decision.

    Raises
    ------
    BlockError
        If it does not prove the last decided block.
    """
    if block.last_commit is None or position.block_id is None:
        return  # The structure and last_block_id were checked: this is the initial height.
    if block.last_commit == position.commit:
        return  # Our own proof of the same decision has been verified already.
    if block.last_commit.block_id != position.block_id:
        raise BlockError("the last commit is for another block than the parent")
    try:
        verify_commit(
            chain_id,
            position.last_validators,
            position.height,
            position.block_id.hash,
            block.last_commit,
        )
    except CommitError as error:
        raise BlockError(f"last commit: {error}") from error


def decode_decision(block: bytes, commit: bytes, chain_id: str, position: ChainPosition) -> Commit:
    """Return a peer's proof that it has decided the height after `position`.

    Only the proof: whether `block` is what it names shows when the block is cut into parts.

    Raises
    ------
    DecodeError, CommitError
        If it proves nothing, or the block is longer than any may be.
    """
    decoded = decode(Commit, commit, COMMIT_BYTES_MAX)
    verify_commit(
        chain_id, position.validators, position.next_height, decoded.block_id.hash, decoded
    )
    if len(block) > BLOCK_BYTES_MAX:
        raise DecodeError(f"a block of {len(block)} bytes exceeds its limit of {BLOCK_BYTES_MAX}")
    return decoded


def validate_roots(header: Header, result: ExecutionResult) -> None:
    """Compare the roots that the proposer claims with those computed here.

    Raises
    ------
    DivergentRoots
        Naming the first root that differs, with both values.
    """
    for field, claimed, computed in (
        ("state_root", header.state_root, result.state_root),
        ("receipts_root", header.receipts_root, result.receipts_root),
        ("model_root", header.model_root, result.model_root),
    ):
        if claimed != computed:
            raise DivergentRoots(f"{field} is {claimed.hex()}, computed {computed.hex()}", result)
