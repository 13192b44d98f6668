"""What the chain said of every task at its last heights, so that a past header can be used.

Owns a bounded memory of model leaves by height: the state is that of the last height alone. Never
stored: after a restart it knows the heights from then on. A height is missing, too, when the node
was so busy that the next block had changed the models before it was recorded.
"""

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from quorate.chain.codec import encode
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_proof_of_hashes, hash_leaf
from quorate.chain.weights import ModelLeaf

from ledger.queries import ModelProof, get_model_leaves
from ledger.state import State

HEIGHTS_KEPT: Final = 256
"""Heights whose leaves are kept."""

LEAVES_KEPT_MAX: Final = 4_000_000
"""Leaves over all these heights, those that did not change counted again; above it, the oldest
heights go earlier."""


@dataclass(frozen=True, slots=True)
class _Models:
    root: Hash
    leaves: tuple[ModelLeaf, ...]


class ModelHistory:
    """Model leaves by height.

    Parameters
    ----------
    state : State
        The committed state, which moves on.
    heights_kept, leaves_kept_max : int
        The limits.
    """

    def __init__(
        self,
        state: State,
        *,
        heights_kept: int = HEIGHTS_KEPT,
        leaves_kept_max: int = LEAVES_KEPT_MAX,
    ) -> None:
        self._state = state
        self._heights_kept = heights_kept
        self._leaves_kept_max = leaves_kept_max
        self._by_height: OrderedDict[int, _Models] = OrderedDict()
        self._leaf_count = 0

    def record(self, height: int, model_root: bytes) -> bool:
        """Remember a decided height; False if the state has moved on to other models.

        Parameters
        ----------
        height : int
            At or below the state's.
        model_root : bytes, 32
            The one in its header.
        """
        if model_root != self._state.model_root or height in self._by_height:
            return height in self._by_height
        last = next(reversed(self._by_height.values()), None)
        models = last if last is not None and last.root == model_root else self._read(last)
        self._by_height[height] = models
        self._leaf_count += len(models.leaves)
        while len(self._by_height) > self._heights_kept or (
            self._leaf_count > self._leaves_kept_max and len(self._by_height) > 1
        ):
            _, dropped = self._by_height.popitem(last=False)
            self._leaf_count -= len(dropped.leaves)
        return True

    def get_proof(self, height: int, task_id: Hash) -> ModelProof | None:
        """Return a task's leaf at a height, with its proof; None if either is not known."""
        models = self._by_height.get(height)
        if models is None:
            return None
        index = bisect_left(models.leaves, task_id, key=lambda leaf: leaf.task_id)
        if index == len(models.leaves) or models.leaves[index].task_id != task_id:
            return None
        hashes = [hash_leaf(encode(leaf)) for leaf in models.leaves]
        return ModelProof(models.leaves[index], compute_proof_of_hashes(hashes, index))

    def _read(self, last: _Models | None) -> _Models:
        # Most leaves are the same as before: share them.
        known = {} if last is None else {leaf.task_id: leaf for leaf in last.leaves}
        leaves = []
        for leaf in get_model_leaves(self._state):
            before = known.get(leaf.task_id)
            leaves.append(before if before is not None and before == leaf else leaf)
        return _Models(self._state.model_root, tuple(leaves))
