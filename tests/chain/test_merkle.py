"""Merkle trees and proofs against known roots and a version straight from RFC 6962's text."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.content import CHUNK_BYTES, compute_chunk_hashes, compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.merkle import (
    EMPTY_ROOT,
    PROOF_DEPTH_MAX,
    MerkleProof,
    compute_proof_of_hashes,
    compute_proofs,
    compute_root,
    compute_root_of_hashes,
    hash_leaf,
    is_proof_valid,
)
from quorate.chain.weights import ModelLeaf, compute_model_root

from tests.chain.samples import make_hash

# The leaves and roots that implementations of certificate transparency are tested with.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def compute_naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = compute_naive_root(leaves[:split]), compute_naive_root(leaves[split:])
    return sha256(b"\1" + left + right).digest()


def compute_naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*compute_naive_path(index, leaves[:split]), compute_naive_root(leaves[split:])]
    return [
        *compute_naive_path(index - split, leaves[split:]),
        compute_naive_root(leaves[:split]),
    ]


@pytest.mark.parametrize("size", range(9))
def test_known_roots(size: int) -> None:
    assert compute_root(LEAVES[:size]).hex() == ROOTS[size]


def test_a_known_path() -> None:
    proof = compute_proofs(LEAVES)[1][0]
    assert [sibling.hex() for sibling in proof.siblings] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


def test_no_leaves() -> None:
    assert compute_proofs([]) == (EMPTY_ROOT, [])
    assert compute_root_of_hashes([]) == EMPTY_ROOT
    assert not is_proof_valid(MerkleProof(0, 0, ()), EMPTY_ROOT, b"")


@pytest.mark.parametrize("size", [*range(1, 34), 63, 64, 65])
def test_roots_and_proofs_are_those_of_the_naive_version(size: int) -> None:
    leaves = [bytes([i]) * (i % 3) for i in range(size)]
    root, proofs = compute_proofs(leaves)
    assert root == compute_root(leaves) == compute_naive_root(leaves)
    for index, proof in enumerate(proofs):
        assert (proof.index, proof.total) == (index, size)
        assert list(proof.siblings) == compute_naive_path(index, leaves)
        assert is_proof_valid(proof, root, leaves[index])
        assert compute_proof_of_hashes([hash_leaf(leaf) for leaf in leaves], index) == proof
    for absent in (-1, size):
        with pytest.raises(IndexError):
            compute_proof_of_hashes([bytes(32)] * size, absent)


@given(st.integers(1, 40), st.data())
def test_no_altered_proof_is_valid(size: int, data: st.DataObject) -> None:
    leaves = [i.to_bytes(2, "big") for i in range(size)]
    root, proofs = compute_proofs(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof, leaf = proofs[index], leaves[index]
    siblings = proof.siblings
    assert is_proof_valid(proof, root, leaf)
    assert not is_proof_valid(proof, root, leaf + b"\0")
    assert not is_proof_valid(proof, make_hash("other"), leaf)
    for wrong_index in (*range(size), size, size + 1, 2**62):
        if wrong_index != index:
            assert not is_proof_valid(MerkleProof(wrong_index, size, siblings), root, leaf)
    wrong_paths = [(*siblings, root), (root, *siblings)]
    for place, sibling in enumerate(siblings):
        flipped = Hash(bytes([sibling[0] ^ 1]) + sibling[1:])
        wrong_paths.append((*siblings[:place], flipped, *siblings[place + 1 :]))
        wrong_paths.append(siblings[:place] + siblings[place + 1 :])
    for path in wrong_paths:
        assert not is_proof_valid(MerkleProof(index, size, path), root, leaf)


def test_an_inner_node_is_no_leaf() -> None:
    left, right = hash_leaf(b"a"), hash_leaf(b"b")
    root = compute_root([b"a", b"b"])
    # Without the prefixes, the two children's hashes would pass for a single leaf.
    assert not is_proof_valid(MerkleProof(0, 1, ()), root, left + right)


def test_a_path_longer_than_any_tree_is_refused() -> None:
    siblings = (make_hash("x"),) * (PROOF_DEPTH_MAX + 1)
    assert not is_proof_valid(MerkleProof(0, 2**62, siblings), make_hash("root"), b"")


@pytest.mark.parametrize(
    ("length", "chunks"),
    [
        (0, 0),
        (4, 1),
        (CHUNK_BYTES, 1),
        (CHUNK_BYTES + 4, 2),
        (3 * CHUNK_BYTES, 3),
    ],
)
def test_weights_root_is_that_of_chunks_of_a_mebibyte(length: int, chunks: int) -> None:
    weights = bytes(range(251)) * (length // 251 + 1)
    weights = weights[:length]
    pieces = [weights[start : start + 1_048_576] for start in range(0, max(length, 1), 1_048_576)][
        :chunks
    ]
    assert len(compute_chunk_hashes(weights)) == chunks
    assert compute_content_hash(weights) == compute_naive_root(pieces)
    assert compute_content_hash(memoryview(weights)) == compute_content_hash(weights)


def test_model_root_does_not_depend_on_the_order_of_tasks() -> None:
    leaves = tuple(
        ModelLeaf(make_hash(f"task{i}"), make_hash("weights"), make_hash("optimizer"))
        for i in range(5)
    )
    assert compute_model_root(leaves) == compute_model_root(leaves[::-1])
    changed = (ModelLeaf(leaves[0].task_id, make_hash("x"), leaves[0].optimizer_root), *leaves[1:])
    assert compute_model_root(changed) != compute_model_root(leaves)
    assert compute_model_root(()) == EMPTY_ROOT
