"""What the chain said of every task at a past height, so that a past header can be used.

Owns the way from a height to the leaves under its model root, and a bounded memory of them by
root: between two training rounds all heights have the same. Never answers with leaves that do not
lead to the root in the header.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from quorate.chain.codec import encode
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_proof_of_hashes, compute_root_of_hashes, hash_leaf
from quorate.chain.weights import ModelLeaf

from ledger.queries import ModelProof
from ledger.state import State
from node.execution.model_places import ModelPlace, load_place, make_leaf
from node.mempool.slices import Slices
from store.chain_store import ChainStore

ROOTS_KEPT: Final = 256
"""Model roots whose leaves are kept."""

LEAVES_KEPT_MAX: Final = 1_000_000
"""Leaves under all of them; above it, the roots that nobody asked for the longest go earlier."""

PLACES_MAX: Final = 10_000
"""Changes of a task's model that are looked through for the earliest weights that are here."""


@dataclass(frozen=True, slots=True)
class _Models:
    leaves: tuple[ModelLeaf, ...]
    hashes: tuple[bytes, ...]


class ModelHistory:
    """Model leaves by height.

    Parameters
    ----------
    state : State
        The committed state, which names the tasks.
    chain : ChainStore
        Where the places of their models are kept.
    roots_kept, leaves_kept_max, places_max : int
        The limits.
    """

    def __init__(
        self,
        state: State,
        chain: ChainStore,
        *,
        roots_kept: int = ROOTS_KEPT,
        leaves_kept_max: int = LEAVES_KEPT_MAX,
        places_max: int = PLACES_MAX,
    ) -> None:
        self._state = state
        self._chain = chain
        self._roots_kept = roots_kept
        self._leaves_kept_max = leaves_kept_max
        self._places_max = places_max
        self._by_root: OrderedDict[bytes, _Models] = OrderedDict()
        self._leaf_count = 0

    async def get_proof(self, height: int, model_root: bytes, task_id: Hash) -> ModelProof | None:
        """Return a task's leaf at a height, with its proof; None if either is not known.

        Parameters
        ----------
        height : int
            Of a stored block.
        model_root : bytes, 32
            The one in its header.
        task_id : bytes, 32

        Raises
        ------
        StorageError
            If the record cannot be read.
        """
        models = self._by_root.get(model_root)
        if models is None:
            models = await self._read(height)
            if compute_root_of_hashes(models.hashes) != model_root:
                return None
            self._keep(model_root, models)
        else:
            self._by_root.move_to_end(model_root)
        index = bisect_left(models.leaves, task_id, key=lambda leaf: leaf.task_id)
        if index == len(models.leaves) or models.leaves[index].task_id != task_id:
            return None
        return ModelProof(models.leaves[index], compute_proof_of_hashes(models.hashes, index))

    def get_place(self, height: int, task_id: Hash) -> ModelPlace | None:
        """Return where a task's model stood after a block; None if this node does not know.

        A height below the stored blocks is known if nothing has changed from there to them.

        Raises
        ------
        StorageError
            If the record cannot be read.
        """
        if height > self._chain.height:
            return None
        place = load_place(self._chain, task_id, max(height, self._chain.base))
        return place if place is not None and place.height <= height else None

    async def find_earliest(self, task_id: Hash, has_weights: Callable[[Hash], bool]) -> int | None:
        """Return the lowest height from which on a task's weights are here without a gap.

        Parameters
        ----------
        task_id : bytes, 32
        has_weights : callable
            Tells whether weights are stored, by their root.

        Raises
        ------
        StorageError
            If a record cannot be read.
        """
        slices = Slices()
        height, earliest = self._chain.height, None
        for _ in range(self._places_max):
            place = self.get_place(height, task_id)
            if place is None or not has_weights(place.weights_root):
                break
            earliest, height = place.height, place.height - 1
            await slices.pause_if_due()
        return earliest

    async def _read(self, height: int) -> _Models:
        slices = Slices()
        leaves = []
        for task_id in self._state.task_ids:
            place = load_place(self._chain, task_id, height)
            if place is not None:
                leaves.append(make_leaf(task_id, place))
            await slices.pause_if_due()
        return _Models(tuple(leaves), tuple(hash_leaf(encode(leaf)) for leaf in leaves))

    def _keep(self, model_root: bytes, models: _Models) -> None:
        before = self._by_root.pop(model_root, None)
        self._leaf_count -= 0 if before is None else len(before.leaves)
        self._by_root[model_root] = models
        self._leaf_count += len(models.leaves)
        while len(self._by_root) > self._roots_kept or (
            self._leaf_count > self._leaves_kept_max and len(self._by_root) > 1
        ):
            _, dropped = self._by_root.popitem(last=False)
            self._leaf_count -= len(dropped.leaves)
