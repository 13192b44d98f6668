"""Payloads by slices, as aggregation reads them from files."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import PendingError
from quorate.chain.ids import Hash

from node.execution.sliced_payloads import SlicedPayloads
from store.database import LevelDatabase
from store.errors import PayloadDamaged
from store.memory_payloads import MemoryPayloadStore
from store.payload_contract import INLINE_BYTES_MAX
from store.payloads import PayloadStore

LARGE = INLINE_BYTES_MAX + 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PayloadStore]:
    database = LevelDatabase(tmp_path / "database")
    yield PayloadStore(database, tmp_path / "payloads")
    database.close()


def make_payload(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def find_file(folder: Path, payload_hash: Hash) -> Path:
    return folder / "payloads" / payload_hash.hex()


def read_resident_file_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not tell RssFile")


@pytest.mark.parametrize("size", [1, LARGE - 1, LARGE, 3 << 20])
def test_slices_are_the_bytes(store: PayloadStore, size: int) -> None:
    data = make_payload(size)
    payload_hash = Hash(store.put(data))
    payloads = SlicedPayloads(store)
    opened = payloads.open_memmap(payload_hash)
    assert opened is not None
    assert opened.size == size
    assert payloads.size(payload_hash) == size
    for start in range(0, size, 100_000):
        assert opened[start : start + 100_000].tobytes() == data[start : start + 100_000]


def test_what_is_not_there_is_none(store: PayloadStore) -> None:
    payloads = SlicedPayloads(store)
    assert payloads.open_memmap(Hash(bytes(32))) is None
    assert payloads.size(Hash(bytes(32))) is None


def test_a_store_in_memory_gives_slices_as_well() -> None:
    store = MemoryPayloadStore()
    data = make_payload(LARGE)
    opened = SlicedPayloads(store).open_memmap(Hash(store.put(data)))
    assert opened is not None
    assert opened[5:70_000].tobytes() == data[5:70_000]


def test_a_damaged_file_is_found_when_it_is_opened(store: PayloadStore, tmp_path: Path) -> None:
    data = make_payload(LARGE)
    payload_hash = Hash(store.put(data))
    find_file(tmp_path, payload_hash).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(PayloadDamaged):
        SlicedPayloads(store).open_memmap(payload_hash)


def test_reading_a_file_through_keeps_nothing_of_it_resident(store: PayloadStore) -> None:
    size, part = 48 << 20, 64 << 10
    payload_hash = Hash(store.put(make_payload(size)))
    opened = SlicedPayloads(store).open_memmap(payload_hash)
    assert opened is not None
    before, highest, total = read_resident_file_bytes(), 0, 0
    for start in range(0, size, part):
        total += int(opened[start : start + part].sum(dtype=np.int64))
        highest = max(highest, read_resident_file_bytes() - before)
    assert total > size
    assert highest < 1 << 20


def test_an_open_payload_outlives_its_deletion(store: PayloadStore) -> None:
    data = make_payload(LARGE)
    payload_hash = Hash(store.put(data))
    opened = SlicedPayloads(store).open_memmap(payload_hash)
    store.delete(payload_hash)
    assert opened is not None
    assert opened[9:LARGE].tobytes() == data[9:]


def test_a_file_that_loses_its_end_is_damaged(store: PayloadStore, tmp_path: Path) -> None:
    payload_hash = Hash(store.put(make_payload(LARGE)))
    opened = SlicedPayloads(store).open_memmap(payload_hash)
    assert opened is not None
    os.truncate(find_file(tmp_path, payload_hash), LARGE - 10)
    assert opened[0 : LARGE - 10].size == LARGE - 10
    with pytest.raises(PayloadDamaged, match="lost its end"):
        opened[0:LARGE]


def test_beyond_their_maximum_files_are_opened_for_each_slice(store: PayloadStore) -> None:
    files_max = 3
    datas = [make_payload(LARGE, seed) for seed in range(files_max + 2)]
    hashes = [Hash(store.put(data, sync=False)) for data in datas]
    payloads = SlicedPayloads(store, files_max=files_max)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    opened = [payloads.open_memmap(payload_hash) for payload_hash in hashes]
    assert len(list(Path("/proc/self/fd").iterdir())) - descriptors == files_max
    for update, data in zip(opened, datas, strict=True):
        assert update is not None
        assert update[7:60_000].tobytes() == data[7:60_000]
    last = opened.pop()
    assert last is not None
    assert last.size == LARGE
    store.delete(hashes[-1])
    with pytest.raises(PendingError) as caught:
        last[0:1]
    assert caught.value.missing_payloads == (compute_content_hash(datas[-1]),)
    # What is no longer read has made room.
    del update
    opened.clear()
    again = payloads.open_memmap(hashes[0])
    store.delete(hashes[0])
    assert again is not None
    assert again[:9].tobytes() == datas[0][:9]
