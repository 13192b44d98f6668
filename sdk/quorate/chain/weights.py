"""The commitment to a model's weights, and to all models of the chain.

Owns the chunking of weights, their root, and the leaf of a task in the model root. Weights are the
concatenation of the task's tensors in order, each as little-endian int32 in C order. Never turns
them into floats: `quorate.fixed_point` does.
"""

from msgspec import Struct

from quorate.chain.codec import encode
from quorate.chain.ids import Hash, WireHash
from quorate.chain.merkle import compute_root, compute_root_of_hashes, hash_leaf

WEIGHTS_CHUNK_BYTES = 1 << 20


class ModelLeaf(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a header's `model_root` commits to for one task."""

    task_id: WireHash
    weights_root: WireHash
    optimizer_root: WireHash


def compute_chunk_hashes(data: bytes | memoryview) -> list[bytes]:
    """Return the RFC 6962 leaf hashes of the chunks of at most 1 MiB of `data`."""
    view = memoryview(data)
    return [
        hash_leaf(view[start : start + WEIGHTS_CHUNK_BYTES].tobytes())
        for start in range(0, len(view), WEIGHTS_CHUNK_BYTES)
    ]


def compute_weights_root(data: bytes | memoryview) -> Hash:
    """Return the Merkle root over the chunks of `data` (weights or optimizer state)."""
    return compute_root_of_hashes(compute_chunk_hashes(data))


def compute_model_root(leaves: tuple[ModelLeaf, ...]) -> Hash:
    """Return the root over all tasks' leaves, sorted by task id."""
    return compute_root([encode(leaf) for leaf in sorted(leaves, key=lambda leaf: leaf.task_id)])
