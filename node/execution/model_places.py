"""Where every task's model stood at every height, kept with the blocks.

Owns the record of it: a document of the chain's store for each task, with a version for each block
in which its weights or its training round changed, written in the same batch as the block. So the
leaves that a past header commits to can be told for every stored height, after a restart, too.
Never judges: who uses it compares the leaves with the header's own root.
"""

from collections.abc import Iterator

from msgspec import Struct
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError, StorageError
from quorate.chain.ids import Hash, Uint64, WireHash
from quorate.chain.weights import ModelLeaf

from ledger.execution import ExecutionResult
from ledger.indexes import get_model_leaf
from ledger.keys import Prefix
from ledger.records import TaskRecord
from ledger.state import State
from store.chain_store import ChainStore

_PLACE_BYTES_MAX = 256


class ModelPlace(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Where a task's model stood, from a height on.

    Attributes
    ----------
    height : int
        The block that made it so.
    training_round : int
        The training round that was open after it.
    weights_root, optimizer_root : bytes, 32
    """

    height: Uint64
    training_round: Uint64
    weights_root: WireHash
    optimizer_root: WireHash


def make_place_documents(state: State, result: ExecutionResult) -> dict[str, bytes]:
    """Return the documents to store with a block; for each task that it moved, one.

    Parameters
    ----------
    state : State
        As it is before the block.
    result : ExecutionResult
        Of the block.
    """
    documents = {}
    for key, record in result.records.items():
        if key[0] != Prefix.TASK or not isinstance(record, TaskRecord):
            continue
        task_id = Hash(key[1:])
        before, leaf = state.get_task(task_id), get_model_leaf(task_id, record)
        if (
            before is None
            or before.training_round != record.training_round
            or get_model_leaf(task_id, before) != leaf
        ):
            place = ModelPlace(
                result.height, record.training_round, leaf.weights_root, leaf.optimizer_root
            )
            documents[task_id.hex()] = encode(place)
    return documents


def load_place(chain: ChainStore, task_id: Hash, height: int) -> ModelPlace | None:
    """Return where a task's model stood after a stored block; None before its creation.

    Raises
    ------
    StorageError
        If the record cannot be read.
    """
    raw = chain.load_document(task_id.hex(), height)
    if raw is None:
        return None
    try:
        return decode(ModelPlace, raw, _PLACE_BYTES_MAX)
    except DecodeError as error:
        raise StorageError(
            f"The place of task {task_id.hex()} at height {height} cannot be read: {error}"
        ) from error


def iterate_places(chain: ChainStore, task_id: Hash, height: int) -> Iterator[ModelPlace]:
    """Yield where a task's model stood, from a height downwards, as far as blocks are stored.

    Raises
    ------
    StorageError
        If a record cannot be read.
    """
    while (place := load_place(chain, task_id, height)) is not None:
        yield place
        height = place.height - 1


def make_leaf(task_id: Hash, place: ModelPlace) -> ModelLeaf:
    """Return what the model root committed to for a task."""
    return ModelLeaf(task_id, place.weights_root, place.optimizer_root)
