"""Content addresses: the chunks of a payload, their hashes, and the root over them."""

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.content import (
    CHUNK_BYTES,
    are_chunk_hashes_valid,
    compute_chunk_hash,
    compute_chunk_hashes,
    compute_content_hash,
    count_chunks,
    get_chunk_size,
)
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root, hash_node

SIZES = (1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 4 * CHUNK_BYTES + 7)


def make_bytes(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


@pytest.mark.parametrize("size", SIZES)
def test_address_is_the_merkle_root_over_chunks_of_one_mebibyte(size: int) -> None:
    data = make_bytes(size)
    chunks = [data[start : start + 1048576] for start in range(0, size, 1048576)]
    assert compute_content_hash(data) == compute_root(chunks)
    assert compute_chunk_hashes(data) == tuple(sha256(b"\0" + c).digest() for c in chunks)
    assert count_chunks(size) == len(chunks)
    assert [get_chunk_size(size, i) for i in range(len(chunks))] == [len(c) for c in chunks]


def test_small_payload_is_one_leaf() -> None:
    assert compute_content_hash(b"update") == sha256(b"\0update").digest()


def test_nothing_has_no_chunks() -> None:
    assert count_chunks(0) == 0
    assert compute_chunk_hashes(b"") == ()
    assert compute_content_hash(b"") == sha256(b"").digest()


@given(st.binary(max_size=200))
def test_every_kind_of_bytes_has_the_same_address(data: bytes) -> None:
    address = compute_content_hash(data)
    assert compute_content_hash(bytearray(data)) == address
    assert compute_content_hash(memoryview(data)) == address
    numbers = np.frombuffer(data[: len(data) // 4 * 4], dtype="<i4")
    assert compute_content_hash(numbers.data) == compute_content_hash(numbers.tobytes())


@pytest.mark.parametrize("index", [-1, 2])
def test_chunk_beyond_the_last_is_refused(index: int) -> None:
    with pytest.raises(IndexError):
        get_chunk_size(CHUNK_BYTES + 1, index)


def test_list_of_chunk_hashes_is_valid_for_its_own_size_alone() -> None:
    data = make_bytes(3 * CHUNK_BYTES + 5)
    hashes, address = compute_chunk_hashes(data), compute_content_hash(data)
    assert are_chunk_hashes_valid(address, len(data), hashes)
    assert not are_chunk_hashes_valid(address, len(data), hashes[::-1])
    assert not are_chunk_hashes_valid(address, 3 * CHUNK_BYTES, hashes)
    # The inner nodes have the same root, and are the hashes of no chunks.
    inner = (Hash(hash_node(*hashes[:2])), Hash(hash_node(*hashes[2:])))
    assert compute_chunk_hash(hashes[0]) != inner[0]
    assert not are_chunk_hashes_valid(address, len(data), inner)
