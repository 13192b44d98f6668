"""One height back: the state before the last block.

Owns what is written to the stores for that. Never touches keys or the last-signed record, and never
executes a block: the node does so when it starts.

The block itself is not lost. It goes into the write-ahead log with its commit, as if it had just
been decided; the node executes it again when it starts, and needs no peer for that.
"""

from dataclasses import dataclass

from quorate.chain.codec import decode
from quorate.chain.errors import StorageError
from quorate.chain.ids import Hash, Height
from quorate.chain.vote import COMMIT_BYTES_MAX, Commit

from consensus.inputs import CommitReceived, StartHeight
from ledger.state import State
from node.agreement.height_log import HeightLog
from node.errors import MaintenanceError
from node.execution.chain_position import POSITION_DOCUMENT, ChainPosition, decode_position
from node.execution.stored_chain import load_position
from node.home import Home
from node.maintenance.stopped_node import hold, open_stopped
from node.storage import NodeStorage
from store.undo import describe_missing


@dataclass(frozen=True, slots=True)
class WentBack:
    """Where the chain stands after going back.

    Attributes
    ----------
    height_before, height : int
        The last decided height before and now; 0 if the first block was taken back.
    state_root : bytes, 32
    is_block_kept : bool
        Whether the node will execute the block again when it starts.
    """

    height_before: int
    height: int
    state_root: Hash
    is_block_kept: bool


def go_back(home: Home, *, drop_block: bool = False) -> WentBack:
    """Take back the last decided block.

    Parameters
    ----------
    home : Home
        Of a stopped node.
    drop_block : bool
        Whether to drop the block, too, so that the node must fetch it from a peer.

    Raises
    ------
    HomeError, ConfigError
        If the home cannot be used, or its node runs.
    MaintenanceError
        If a block that was taken back before is still to be executed again.
    NothingToUndo
        If the state before the block is not kept.
    StorageError
        If a store is damaged or cannot be written.
    """
    with hold(home) as node, open_stopped(node) as storage:
        chain = storage.chain
        height = chain.height
        if not chain.can_roll_back:
            raise describe_missing(height)
        if not drop_block and _is_block_waiting(storage, height):
            raise MaintenanceError(
                f"This node has gone back to height {height} already, and the block after it waits "
                "in the log to be executed again: start the node first; or go back further with "
                "--drop-block, and let it fetch the blocks from its peers."
            )
        before = _load_position_before(storage, height)
        # The log first: if only that is done, the node finds the database where it was and leaves
        # this part of the log alone. The other way round, the log would be ahead.
        _write_log(storage, before, drop_block=drop_block)
        reached = chain.rollback()
        position = load_position(chain, State(chain, node.genesis))
        return WentBack(height, reached, position.state_root, not drop_block)


def _is_block_waiting(storage: NodeStorage, height: int) -> bool:
    inputs = HeightLog(storage.log).read(Height(height)).inputs
    return any(isinstance(item, CommitReceived) for item in inputs)


def _load_position_before(storage: NodeStorage, height: int) -> ChainPosition:
    raw = storage.chain.load_document(POSITION_DOCUMENT, height - 1)
    if raw is None:
        raise StorageError(
            f"The database has no record of where the chain stood at height {height - 1}: restore "
            "the data folder from a backup."
        )
    return decode_position(raw, None)


def _write_log(storage: NodeStorage, before: ChainPosition, *, drop_block: bool) -> None:
    height = before.next_height
    log = HeightLog(storage.log)
    log.mark(Height(height - 1))
    if not drop_block:
        block = storage.chain.load_block(height)
        raw_commit = storage.chain.load_commit(height)
        if block is None or raw_commit is None:
            raise StorageError(f"Block {height} is missing: restore the data folder from a backup.")
        commit = decode(Commit, raw_commit, COMMIT_BYTES_MAX)
        parameters = before.parameters
        log.append_input(
            StartHeight(
                height,
                before.validators.validators,
                before.time_ms,
                parameters.precision_ms,
                parameters.message_delay_ms,
            )
        )
        log.append_block(commit.block_id, block)
        log.append_input(CommitReceived(commit))
    log.sync()
