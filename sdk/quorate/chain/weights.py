"""The commitment to a model's weights, and to all models of the chain.

Owns the leaf of a task in the model root. Weights are committed to by their content address
(`quorate.chain.content`), which is so the root over their chunks of 1 MiB. They are the
concatenation of the task's tensors in order, each as little-endian int32 in C order. Never turns
them into floats: `quorate.fixed_point` does.
"""

from msgspec import Struct

from quorate.chain.codec import encode
from quorate.chain.ids import Hash, WireHash
from quorate.chain.merkle import compute_root

WEIGHT_BYTES = 4
"""The bytes of one weight."""


class ModelLeaf(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a header's `model_root` commits to for one task."""

    task_id: WireHash
    weights_root: WireHash
    optimizer_root: WireHash


def compute_model_root(leaves: tuple[ModelLeaf, ...]) -> Hash:
    """Return the root over all tasks' leaves, sorted by task id."""
    return compute_root([encode(leaf) for leaf in sorted(leaves, key=lambda leaf: leaf.task_id)])
