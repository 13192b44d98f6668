"""The Merkle tree over the buckets of the state.

Owns which bucket a key lies in, the root of a bucket, and the tree of all buckets' roots with
updates that rehash only what changed. Never reads records or knows what a value means.

The state's root is the RFC 6962 root (section 2.1) over the roots of a fixed number of buckets.
A bucket's root is the RFC 6962 root over its entries sorted by key, each leaf the canonical
encoding of (key, value).
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from operator import itemgetter

import msgpack
from quorate.chain.errors import InvariantError
from quorate.chain.ids import HASH_BYTES, Hash
from quorate.chain.merkle import EMPTY_ROOT, MerkleProof

BUCKET_COUNT_MAX = 1 << 24

_pack = msgpack.Packer(use_bin_type=True).pack


def compute_bucket(key: bytes, bucket_count: int) -> int:
    """Return the bucket of a key: the first 8 bytes of its SHA-256, modulo the number of buckets.

    Parameters
    ----------
    key : bytes
    bucket_count : int
        1 to 2^24, from genesis.
    """
    return int.from_bytes(sha256(key).digest()[:8], "big") % bucket_count


def hash_entry(key: bytes, value: bytes) -> bytes:
    """Return the leaf hash of an entry."""
    return sha256(b"\x00" + _pack((key, value))).digest()


@dataclass(frozen=True, slots=True)
class Bucket:
    """The entries of one bucket, as far as its root needs them.

    Attributes
    ----------
    keys : tuple of bytes
        In order.
    levels : tuple of tuple of bytes, 32
        The nodes of its tree, from the entries' leaf hashes up to the root; none without entries.
    """

    keys: tuple[bytes, ...]
    levels: tuple[tuple[bytes, ...], ...]

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The leaf hash of each entry."""
        return self.levels[0] if self.levels else ()

    @property
    def root(self) -> Hash:
        """The RFC 6962 root over the entries."""
        return Hash(self.levels[-1][0]) if self.levels else EMPTY_ROOT

    def apply(self, writes: Iterable[tuple[bytes, bytes | None]]) -> "Bucket":
        """Return the bucket after `writes`; None deletes, and need not find anything."""
        changes = list(writes)
        if len(changes) == 1:
            # One account of the bucket changed: by far the most frequent case.
            (key, value), place = changes[0], bisect_left(self.keys, changes[0][0])
            if value is not None and self._has(key, place):
                return Bucket(self.keys, _replace_leaf(self.levels, place, hash_entry(key, value)))
        hashes = dict(zip(self.keys, self.hashes, strict=True))
        for key, value in changes:
            if value is None:
                hashes.pop(key, None)
            else:
                hashes[key] = hash_entry(key, value)
        keys = sorted(hashes)
        return Bucket(tuple(keys), _hash_levels([hashes[key] for key in keys]))

    def _has(self, key: bytes, place: int) -> bool:
        return place < len(self.keys) and self.keys[place] == key


def make_bucket(entries: Iterable[tuple[bytes, bytes]]) -> Bucket:
    """Return the bucket of entries that are sorted by key."""
    keys, hashes = [], []
    for key, value in entries:
        keys.append(key)
        hashes.append(hash_entry(key, value))
    return Bucket(tuple(keys), _hash_levels(hashes))


def _hash_levels(hashes: list[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """Return all levels over leaf hashes; an odd last node is promoted (RFC 6962)."""
    if not hashes:
        return ()
    levels = [tuple(hashes)]
    while len(level := levels[-1]) > 1:
        above = [
            sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)
        ]
        if len(level) % 2:
            above.append(level[-1])
        levels.append(tuple(above))
    return tuple(levels)


def _replace_leaf(
    levels: tuple[tuple[bytes, ...], ...], position: int, node: bytes
) -> tuple[tuple[bytes, ...], ...]:
    """Return the levels with another leaf hash at `position`, rehashing its path alone."""
    replaced = []
    for level in levels:
        replaced.append((*level[:position], node, *level[position + 1 :]))
        neighbour = position ^ 1
        if neighbour < len(level):
            pair = level[neighbour] + node if position & 1 else node + level[neighbour]
            node = sha256(b"\x01" + pair).digest()
        position >>= 1
    return tuple(replaced)


@dataclass(frozen=True, slots=True)
class TreePatch:
    """What a block changes in the tree.

    Attributes
    ----------
    base_root : bytes, 32
        The root of the tree it was computed from.
    root : bytes, 32
        The root after it.
    levels : tuple of dict
        New nodes by position, level by level from the buckets' roots up.
    buckets : dict
        The touched buckets' new contents, by bucket.
    """

    base_root: Hash
    root: Hash
    levels: tuple[Mapping[int, bytes], ...]
    buckets: Mapping[int, Bucket] = field(default_factory=dict)


class BucketTree:
    """All nodes of the tree over the buckets' roots, level by level in byte arrays.

    With n buckets it takes about 64 n bytes (4 MiB for 2^16).

    Parameters
    ----------
    bucket_count : int
        1 to 2^24.
    """

    def __init__(self, bucket_count: int) -> None:
        if not 1 <= bucket_count <= BUCKET_COUNT_MAX:
            raise ValueError(f"the number of buckets is 1 to {BUCKET_COUNT_MAX}")
        self.bucket_count = bucket_count
        self._levels: list[bytearray] = [bytearray(EMPTY_ROOT * bucket_count)]
        self._hash_upper_levels()

    @classmethod
    def build(cls, bucket_count: int, roots: Iterable[tuple[int, bytes]]) -> "BucketTree":
        """Build the tree from the roots of the buckets that are not empty."""
        tree = cls(bucket_count)
        lowest = tree._levels[0]
        for bucket, root in roots:
            lowest[bucket * HASH_BYTES : (bucket + 1) * HASH_BYTES] = root
        tree._hash_upper_levels()
        return tree

    @property
    def root(self) -> Hash:
        """The root of the state."""
        return Hash(bytes(self._levels[-1]))

    def compute_update(
        self, touched: Mapping[int, bytes], buckets: Mapping[int, Bucket] | None = None
    ) -> TreePatch:
        """Return the change that new bucket roots make, leaving the tree as it is.

        Parameters
        ----------
        touched : mapping of int to bytes, 32
            New roots by bucket.
        buckets : mapping of int to Bucket, optional
            Carried along in the patch.
        """
        levels: list[dict[int, bytes]] = [dict(touched)]
        for level in self._levels[:-1]:
            below = levels[-1]
            last = len(level) // HASH_BYTES - 1
            above: dict[int, bytes] = {}
            for position, node in below.items():
                parent = position >> 1
                if parent in above:
                    continue
                neighbour = position ^ 1
                if neighbour > last:
                    # RFC 6962 promotes an odd last node.
                    above[parent] = node
                    continue
                start = neighbour * HASH_BYTES
                other = below.get(neighbour) or bytes(level[start : start + HASH_BYTES])
                pair = other + node if position & 1 else node + other
                above[parent] = sha256(b"\x01" + pair).digest()
            levels.append(above)
        root = Hash(levels[-1].get(0, self.root))
        return TreePatch(self.root, root, tuple(levels), {} if buckets is None else buckets)

    def apply(self, patch: TreePatch) -> None:
        """Take over a patch computed from the present tree.

        Raises
        ------
        InvariantError
            If it was computed from another one.
        """
        if patch.base_root != self.root:
            raise InvariantError("a change of the state tree was computed from another state")
        for level, nodes in zip(self._levels, patch.levels, strict=True):
            for position, node in nodes.items():
                level[position * HASH_BYTES : (position + 1) * HASH_BYTES] = node

    def get_proof(self, bucket: int) -> MerkleProof:
        """Return the proof that a bucket's root is in the tree."""
        siblings = []
        position = bucket
        for level in self._levels[:-1]:
            start = (position ^ 1) * HASH_BYTES
            if start < len(level):
                siblings.append(Hash(bytes(level[start : start + HASH_BYTES])))
            position >>= 1
        return MerkleProof(bucket, self.bucket_count, tuple(siblings))

    def _hash_upper_levels(self) -> None:
        levels = [self._levels[0]]
        while len(levels[-1]) > HASH_BYTES:
            level = levels[-1]
            above = bytearray()
            for start in range(0, len(level), 2 * HASH_BYTES):
                pair = level[start : start + 2 * HASH_BYTES]
                is_odd = len(pair) == HASH_BYTES
                above += pair if is_odd else sha256(b"\x01" + pair).digest()
            levels.append(above)
        self._levels = levels


def iterate_buckets(
    entries: Iterable[tuple[int, bytes, bytes]],
) -> Iterator[tuple[int, Iterator[tuple[bytes, bytes]]]]:
    """Group the entries of a state, sorted by bucket, into (bucket, its entries)."""
    for bucket, group in groupby(entries, key=itemgetter(0)):
        yield bucket, ((key, value) for _, key, value in group)
