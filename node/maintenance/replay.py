"""Executing the stored blocks again, beside the stored state, and comparing the results.

Owns the scratch state and the comparison. Never changes what the node has stored: the state that
is replayed lies in a scratch folder or in memory, and is gone afterwards.

From the genesis on, a replay needs every payload that a training round was aggregated from; these
are dropped some time after their round. Over the last few blocks it needs only the latest ones:
there the state before them is known from what each has replaced.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import trio
from numpy.typing import NDArray
from quorate.chain.block import Block
from quorate.chain.codec import decode, encode
from quorate.chain.errors import BlockError, CommitError, PendingError, StorageError
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Hash
from quorate.chain.vote import COMMIT_BYTES_MAX, Commit, verify_commit

from ledger.aggregates import InlineAggregates
from ledger.state import State
from node.errors import MaintenanceError, ReplayDiffers
from node.execution.executor import Executor
from node.execution.stored_chain import initialize_storage, load_position
from node.home import Home
from node.maintenance.stopped_node import hold, open_stopped
from node.mempool.verifier import TransactionVerifier
from node.storage import NodeStorage
from store.chain_store import ChainStore
from store.database import Database, LevelDatabase
from store.disk import BytesLike, translated_errors
from store.memory_payloads import MemoryPayloadStore
from store.overlay import OverlayDatabase
from store.payload_contract import Payloads, sweep_payloads
from store.undo import UNDO_HEIGHTS_MAX

SCRATCH_PREFIX: Final = "replay-"

Progress = Callable[[int, int], None]
"""Told of each block that is done: its height, and the last one there is."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Blocks that gave the same results again.

    Attributes
    ----------
    first, last : int
        Heights, both included.
    state_root, model_root : bytes, 32
        After the last.
    """

    first: int
    last: int
    state_root: Hash
    model_root: Hash


class _ScratchPayloads(MemoryPayloadStore):
    """Payloads of a node, and above them those that a replay makes, in memory."""

    def __init__(self, stored: Payloads) -> None:
        super().__init__()
        self._stored = stored

    def has(self, payload_hash: bytes) -> bool:
        return super().has(payload_hash) or self._stored.has(payload_hash)

    def get(self, payload_hash: bytes, *, verify: bool = True) -> bytes | None:
        data = super().get(payload_hash)
        return self._stored.get(payload_hash, verify=verify) if data is None else data

    def size(self, payload_hash: bytes) -> int | None:
        size = super().size(payload_hash)
        return self._stored.size(payload_hash) if size is None else size

    def open_memmap(self, payload_hash: bytes, *, verify: bool = True) -> NDArray[np.uint8] | None:
        mapped = super().open_memmap(payload_hash)
        if mapped is None:
            mapped = self._stored.open_memmap(payload_hash, verify=verify)
        return mapped

    def put(self, data: BytesLike, *, sync: bool = True) -> bytes:
        return super().put(bytes(data), sync=sync)


def replay(
    home: Home, from_height: int | None = None, progress: Progress | None = None
) -> Replayed:
    """Execute the stored blocks again and compare every root and receipt.

    Parameters
    ----------
    home : Home
        Of a stopped node.
    from_height : int, optional
        The first block to execute, one of the last `UNDO_HEIGHTS_MAX`; by default the chain's
        first.
    progress : callable, optional

    Raises
    ------
    ReplayDiffers
        If a block gives another result.
    MaintenanceError
        If the replay is impossible: the blocks, the state or a payload it needs are not kept.
    HomeError, ConfigError, StorageError
        If the home cannot be used.
    """
    with hold(home) as node, open_stopped(node) as storage:
        first = from_height if from_height is not None else storage.chain.initial_height
        last = storage.chain.height
        _check_range(storage.chain, first)
        with _open_scratch(home, storage, node.genesis, from_height) as scratch:
            payloads = _ScratchPayloads(storage.payloads)
            executor = _make_executor(node.genesis, scratch, payloads)
            run = partial(_replay_blocks, storage.chain, executor, payloads, first, progress)
            trio.run(run)
        return Replayed(first, last, executor.position.state_root, executor.position.model_root)


def _check_range(chain: ChainStore, first: int) -> None:
    if not chain.initial_height <= first <= chain.height:
        raise MaintenanceError(
            f"There is no block {first}: this node has {chain.base} to {chain.height}."
        )
    if first < chain.base:
        raise MaintenanceError(
            f"Block {first} was dropped: this node has {chain.base} to {chain.height}. Name one of "
            f"the last {UNDO_HEIGHTS_MAX} with --from-height."
        )


@contextmanager
def _open_scratch(
    home: Home, storage: NodeStorage, genesis: Genesis, from_height: int | None
) -> Iterator[ChainStore]:
    """Yield a store with the state before the first block to execute."""
    database: Database
    if from_height is not None:
        database = OverlayDatabase(storage.chain.database)
        chain = ChainStore(database)
        while chain.height >= from_height:
            if not chain.can_roll_back:
                raise MaintenanceError(
                    f"The state before block {chain.height} is not kept: name one of the last "
                    f"{UNDO_HEIGHTS_MAX} blocks, or replay from the genesis on."
                )
            chain.rollback()
        yield chain
        return
    with translated_errors(home.data_folder):
        folder = tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=home.data_folder)
    with folder as name:
        level = LevelDatabase(Path(name) / "state")
        try:
            chain = ChainStore(level)
            initialize_storage(chain, genesis)
            yield chain
        finally:
            level.close()


def _make_executor(genesis: Genesis, chain: ChainStore, payloads: Payloads) -> Executor:
    state = State(chain, genesis)
    return Executor(
        genesis,
        chain,
        payloads,
        state,
        load_position(chain, state),
        TransactionVerifier(genesis.chain_id),
        InlineAggregates(),
    )


async def _replay_blocks(
    chain: ChainStore,
    executor: Executor,
    payloads: _ScratchPayloads,
    first: int,
    progress: Progress | None,
) -> None:
    for height in range(first, chain.height + 1):
        block, raw_commit = chain.load_block(height), chain.load_commit(height)
        if block is None or raw_commit is None:
            raise StorageError(
                f"Block {height} is missing from the database: restore it from a backup."
            )
        commit = decode(Commit, raw_commit, COMMIT_BYTES_MAX)
        try:
            receipts = await _replay_block(executor, commit, block)
        except (BlockError, CommitError) as error:
            raise ReplayDiffers(
                f"Block {height} gives another result when it is executed again ({error}): the "
                "stored block or this version of the program is not the one that decided it. Keep "
                "the home folder for a report, and compare versions with other operators."
            ) from error
        except PendingError as error:
            raise MaintenanceError(
                f"Block {height} cannot be executed again ({error}): what it needs was dropped "
                f"after its training round. The last {UNDO_HEIGHTS_MAX} blocks need less: name one "
                "with --from-height."
            ) from error
        if receipts != chain.load_receipts(height):
            raise ReplayDiffers(
                f"The stored receipts of block {height} are not those that it has: the database "
                "is damaged; restore it from a backup."
            )
        # Weights that were replaced would fill the memory.
        sweep_payloads(payloads, lambda name: executor.state.is_payload_needed(Hash(name)))
        if progress is not None:
            progress(height, chain.height)


async def _replay_block(executor: Executor, commit: Commit, raw: bytes) -> bytes:
    """Execute a block, make it the scratch chain's last, and return its receipts."""
    position = executor.position
    block_hash = decode(Block, raw, len(raw)).header.hash
    verify_commit(executor.chain_id, position.validators, position.next_height, block_hash, commit)
    executed = await executor.judge(commit.block_id, raw)
    executor.commit(commit)
    return encode(executed.result.receipts)
