"""Merkle trees and inclusion proofs as RFC 6962, section 2.1, defines them (SHA-256).

Owns the hashing of leaves and nodes, roots and proofs. Never knows what a leaf means.
"""

from collections.abc import Sequence
from hashlib import sha256

from msgspec import Struct

from quorate.chain.ids import Hash, Uint64, WireHash

EMPTY_ROOT = Hash(sha256(b"").digest())
PROOF_DEPTH_MAX = 64


class MerkleProof(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """That a leaf stands at `index` among `total` leaves: the siblings from leaf to root."""

    index: Uint64
    total: Uint64
    siblings: tuple[WireHash, ...]


def hash_leaf(leaf: bytes) -> bytes:
    """Return SHA-256(0x00 || leaf)."""
    return sha256(b"\x00" + leaf).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def _next_level(level: list[bytes]) -> list[bytes]:
    # Pairing neighbours and promoting an odd last node yields RFC 6962's tree: each left subtree
    # is the largest perfect one.
    above = [
        sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)
    ]
    if len(level) % 2:
        above.append(level[-1])
    return above


def compute_root(leaves: Sequence[bytes]) -> Hash:
    """Return the root over `leaves`; of no leaves, the hash of the empty string."""
    return compute_root_of_hashes([sha256(b"\x00" + leaf).digest() for leaf in leaves])


def compute_root_of_hashes(hashes: Sequence[bytes]) -> Hash:
    """Return the root over leaves that are already hashed with `hash_leaf`."""
    if not hashes:
        return EMPTY_ROOT
    level = list(hashes)
    while len(level) > 1:
        level = _next_level(level)
    return Hash(level[0])


def compute_proofs(leaves: Sequence[bytes]) -> tuple[Hash, list[MerkleProof]]:
    """Return the root over `leaves` and an inclusion proof for each."""
    levels = [[hash_leaf(leaf) for leaf in leaves]]
    if not leaves:
        return EMPTY_ROOT, []
    while len(levels[-1]) > 1:
        levels.append(_next_level(levels[-1]))
    proofs = []
    for index in range(len(leaves)):
        siblings = []
        position = index
        for level in levels[:-1]:
            neighbour = position ^ 1
            if neighbour < len(level):
                siblings.append(Hash(level[neighbour]))
            position //= 2
        proofs.append(MerkleProof(index, len(leaves), tuple(siblings)))
    return Hash(levels[-1][0]), proofs


def compute_proof_of_hashes(hashes: Sequence[bytes], index: int) -> MerkleProof:
    """Return the inclusion proof of one leaf among leaves that are already hashed.

    Raises
    ------
    IndexError
        If there is no leaf at `index`.
    """
    if not 0 <= index < len(hashes):
        raise IndexError(f"there is no leaf {index} among {len(hashes)}")
    siblings = []
    level, position = list(hashes), index
    while len(level) > 1:
        neighbour = position ^ 1
        if neighbour < len(level):
            siblings.append(Hash(level[neighbour]))
        level = _next_level(level)
        position //= 2
    return MerkleProof(index, len(hashes), tuple(siblings))


def is_proof_valid(proof: MerkleProof, root: Hash, leaf: bytes) -> bool:
    """Tell whether `proof` shows that `leaf` stands at its index in the tree of `root`.

    Follows RFC 9162, section 2.1.3.2.
    """
    if proof.index >= proof.total or len(proof.siblings) > PROOF_DEPTH_MAX:
        return False
    position, last = proof.index, proof.total - 1
    current = hash_leaf(leaf)
    for sibling in proof.siblings:
        if last == 0:
            return False
        if position % 2 or position == last:
            current = hash_node(sibling, current)
            while position % 2 == 0 and position:
                position //= 2
                last //= 2
        else:
            current = hash_node(current, sibling)
        position //= 2
        last //= 2
    return last == 0 and current == root
