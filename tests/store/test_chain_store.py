"""The chain store: heights in order, indexes, state, documents at past heights, pruning."""

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quorate.chain.errors import InvariantError

from store import chain_store, layout
from store.chain_store import ChainStore, DecidedBlock
from store.database import Batch, Database, LevelDatabase, MemoryDatabase
from store.documents import DOCUMENT_BYTES_MAX, DOCUMENT_NAME_BYTES_MAX, DOCUMENTS_MAX
from store.errors import DatabaseDamaged, DiskFull, FormatUnknown
from tests.store.disks import DatabaseDisk, ObservedDatabase

State = Mapping[bytes, bytes | None]


def bucket_of(key: bytes) -> int:
    return hashlib.sha256(key).digest()[0]


def compute_hash(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def make_block(
    height: int,
    n_transactions: int = 3,
    state: State | None = None,
    documents: Mapping[str, bytes] | None = None,
) -> DecidedBlock:
    return DecidedBlock(
        height=height,
        block_hash=compute_hash("block", height),
        block=b"block %d" % height,
        commit=b"commit %d" % height,
        receipts=b"receipts %d" % height,
        transaction_hashes=[compute_hash(height, index) for index in range(n_transactions)],
        state_writes=state or {},
        bucket_of=bucket_of,
        documents=documents or {},
    )


def start(database: Database, **options: Any) -> ChainStore:
    store = ChainStore(database)
    store.initialize({b"alice": b"10"}, bucket_of, {"params": b"genesis"}, **options)
    return store


def get_everything(database: Database) -> list[tuple[bytes, bytes]]:
    return list(database.iterate(b"\x00", b"\xff"))


def test_a_new_store_is_empty(database: Database) -> None:
    store = ChainStore(database)
    assert not store.is_initialized
    assert (store.initial_height, store.base, store.height) == (0, 0, 0)
    assert store.load_document("params") is None
    assert store.load_block(0) is None
    assert store.load_block(1) is None
    with pytest.raises(InvariantError, match="cannot follow"):
        store.commit(make_block(1))
    with pytest.raises(InvariantError, match="cannot follow"):
        store.commit(make_block(0))


def test_the_genesis_is_there_after_reopening(database_disk: DatabaseDisk) -> None:
    start(database_disk.reopen())
    store = ChainStore(database_disk.reopen())
    assert store.is_initialized
    assert (store.initial_height, store.base, store.height) == (1, 0, 0)
    assert store.get_state(bucket_of(b"alice"), b"alice") == b"10"
    assert store.load_document("params") == store.load_document("params", 0) == b"genesis"
    with pytest.raises(InvariantError):
        store.initialize({}, bucket_of, {})


def check_three_blocks(store: ChainStore) -> None:
    assert (store.base, store.height) == (1, 3)
    for height in (1, 2, 3):
        assert store.load_block(height) == b"block %d" % height
        assert store.load_commit(height) == b"commit %d" % height
        assert store.load_receipts(height) == b"receipts %d" % height
        assert store.load_block_hash(height) == compute_hash("block", height)
        assert store.find_height(compute_hash("block", height)) == height
        assert store.find_transaction(compute_hash(height, 2)) == (height, 2)


def test_a_decided_block_is_found_in_every_way(database_disk: DatabaseDisk) -> None:
    store = start(database_disk.reopen())
    for height in (1, 2, 3):
        store.commit(make_block(height))
    check_three_blocks(store)
    store = ChainStore(database_disk.reopen())
    check_three_blocks(store)
    for absent in (0, 4, -1, 2**64):
        assert store.load_block(absent) is None
    assert store.find_height(compute_hash("block", 4)) is None
    assert store.find_transaction(compute_hash(1, 3)) is None


@pytest.mark.parametrize("height", [0, 1, 3, 4])
def test_only_the_next_height_can_follow(database: Database, height: int) -> None:
    store = start(database)
    store.commit(make_block(1))
    before = get_everything(database)
    with pytest.raises(InvariantError, match="height 2 is next"):
        store.commit(make_block(height))
    assert get_everything(database) == before
    assert store.height == 1


def test_a_chain_may_start_at_another_height(database_disk: DatabaseDisk) -> None:
    store = start(database_disk.reopen(), initial_height=1000)
    with pytest.raises(InvariantError, match="height 1000 is next"):
        store.commit(make_block(1))
    store.commit(make_block(1000, documents={"params": b"changed"}))
    store = ChainStore(database_disk.reopen())
    assert (store.initial_height, store.base, store.height) == (1000, 1000, 1000)
    assert store.load_document("params", 999) == b"genesis"
    assert store.load_document("params", 998) is None
    assert store.load_document("params", 1000) == b"changed"


@pytest.mark.parametrize("initial_height", [0, -1, 2**63])
def test_an_initial_height_out_of_range_is_a_defect(
    database: Database, initial_height: int
) -> None:
    with pytest.raises(InvariantError):
        start(database, initial_height=initial_height)


@pytest.mark.parametrize("harm", ["block", "transaction"])
def test_a_hash_of_another_length_is_a_defect(database: Database, harm: str) -> None:
    store = start(database)
    block = make_block(1)
    block_hash = b"short" if harm == "block" else block.block_hash
    hashes = [b"short"] if harm == "transaction" else block.transaction_hashes
    with pytest.raises(InvariantError, match="not 32 bytes"):
        store.commit(DecidedBlock(1, block_hash, b"", b"", b"", hashes, {}, bucket_of))
    assert store.height == 0


def test_state_is_written_deleted_and_read_by_bucket(database: Database) -> None:
    store = start(database)
    keys = [b"key %d" % number for number in range(600)]
    store.commit(make_block(1, state={key: key[::-1] for key in keys} | {b"alice": None}))
    store.commit(make_block(2, state={keys[0]: None, keys[1]: b""}))
    expected = {key: key[::-1] for key in keys[2:]} | {keys[1]: b""}
    assert store.get_state(bucket_of(b"alice"), b"alice") is None
    assert store.get_state(bucket_of(keys[0]), keys[0]) is None
    assert store.get_state(bucket_of(keys[1]), keys[1]) == b""
    assert store.get_state(bucket_of(keys[2]) + 1, keys[2]) is None
    for bucket in range(257):
        assert list(store.iterate_bucket(bucket)) == sorted(
            (key, value) for key, value in expected.items() if bucket_of(key) == bucket
        )
    assert list(store.iterate_state()) == sorted(
        (bucket_of(key), key, value) for key, value in expected.items()
    )


@pytest.mark.parametrize("bucket", [0, 255, 256, 2**16 - 1, 2**32 - 1])
def test_the_ends_of_a_bucket(database: Database, bucket: int) -> None:
    """A bucket holds neither its neighbours' entries nor those of another kind."""
    store = ChainStore(database)
    keys = [b"", b"\x00", b"\xff" * 8, b"T" * 40]
    neighbours = {b"below": max(0, bucket - 1), b"above": min(2**32 - 1, bucket + 1)}
    strangers = {key: at for key, at in neighbours.items() if at != bucket}
    store.initialize(
        dict.fromkeys([*keys, *strangers], b"value"),
        lambda key: strangers.get(key, bucket),
        {},
    )
    store.commit(make_block(1))
    assert [key for key, _ in store.iterate_bucket(bucket)] == sorted(keys)


def test_documents_at_past_heights(database: Database) -> None:
    store = start(database)
    store.commit(make_block(1))
    store.commit(make_block(2, documents={"params": b"two", "params2": b"another"}))
    store.commit(make_block(3, documents={"params": b"two"}))
    store.commit(make_block(4, documents={"params": b"four"}))
    versions = [store.load_document("params", height) for height in range(-1, 6)]
    assert versions == [None, b"genesis", b"genesis", b"two", b"two", b"four", None]
    assert store.load_document("params") == b"four"
    assert store.load_document("params2", 1) is None
    assert store.load_document("params2", 4) == b"another"
    assert store.load_document("param") is None
    # The unchanged one of height 3 was not stored a second time.
    assert len(list(database.iterate(*layout.get_range(layout.DOCUMENT + b"params\0")))) == 3


def test_a_name_that_begins_like_another_is_another(database: Database) -> None:
    """At such a height the bytes of a height could pass for the end of a name."""
    store = ChainStore(database)
    store.initialize({}, bucket_of, {"a?": b"value"}, initial_height=2**62 + 1)
    assert store.load_document("a?") == b"value"
    assert store.load_document("a") is None


@pytest.mark.parametrize(
    "documents",
    [
        {"": b""},
        {"a\0b": b""},
        {"n" * (DOCUMENT_NAME_BYTES_MAX + 1): b""},
        {"name": bytes(DOCUMENT_BYTES_MAX + 1)},
        {str(number): b"" for number in range(DOCUMENTS_MAX + 1)},
    ],
)
def test_documents_out_of_bounds_are_a_defect(
    database: Database, documents: dict[str, bytes]
) -> None:
    store = start(database)
    with pytest.raises(InvariantError):
        store.commit(make_block(1, documents=documents))
    assert store.height == 0
    with pytest.raises(InvariantError):
        ChainStore(MemoryDatabase()).initialize({}, bucket_of, documents)


def test_the_largest_documents_are_kept(database: Database) -> None:
    store = start(database)
    documents = {str(number).zfill(DOCUMENT_NAME_BYTES_MAX): b"" for number in range(DOCUMENTS_MAX)}
    documents[next(iter(documents))] = bytes(DOCUMENT_BYTES_MAX)
    store.commit(make_block(1, documents=documents))
    assert all(store.load_document(name) == value for name, value in documents.items())


def test_pruning_removes_blocks_and_their_indexes_alone(database_disk: DatabaseDisk) -> None:
    store = start(database_disk.reopen())
    for height in range(1, 11):
        documents = {"params": b"%d" % height} if height in (3, 5, 8) else {}
        store.commit(make_block(height, state={b"h%d" % height: b""}, documents=documents))
    state = list(store.iterate_state())
    assert store.prune(1) == 0
    assert store.prune(7) == 6
    assert store.prune(7) == store.prune(3) == 0
    assert (store.base, store.height) == (7, 10)
    database = database_disk.reopen()
    store = ChainStore(database)
    assert (store.base, store.height) == (7, 10)
    for height in range(1, 7):
        assert store.load_block(height) is None
        assert store.load_commit(height) is None
        assert store.load_receipts(height) is None
        assert store.load_block_hash(height) is None
        assert store.load_document("params", height) is None
        assert store.find_height(compute_hash("block", height)) is None
        assert store.find_transaction(compute_hash(height, 0)) is None
    for height in range(7, 11):
        assert store.load_block(height) == b"block %d" % height
        assert store.find_transaction(compute_hash(height, 0)) == (height, 0)
    versions = [store.load_document("params", height) for height in range(7, 11)]
    assert versions == [b"5", b"8", b"8", b"8"]
    assert len(list(database.iterate(*layout.get_range(layout.DOCUMENT)))) == 2
    assert list(store.iterate_state()) == state


def test_nothing_is_left_of_pruned_blocks(database: Database) -> None:
    pruned = start(database)
    for height in (1, 2, 3):
        pruned.commit(make_block(height))
    pruned.prune(3)
    keys = [key for key, _ in get_everything(database)]
    # Per height: block, commit, receipts, hash, its index, transactions and their three indexes,
    # what it changed; besides these the two facts, one document and one state entry.
    assert len(keys) == 10 + 4


@pytest.mark.parametrize("retain_height", [-1, 4])
def test_pruning_everything_is_a_defect(database: Database, retain_height: int) -> None:
    store = start(database)
    for height in (1, 2, 3):
        store.commit(make_block(height))
    with pytest.raises(InvariantError):
        store.prune(retain_height)
    assert store.base == 1


class FailingDatabase(MemoryDatabase):
    """A disk that is full after a few batches."""

    batches_left = 1000

    def write(self, batch: Batch, *, sync: bool) -> None:
        if self.batches_left == 0:
            raise DiskFull("The disk has no room.")
        self.batches_left -= 1
        super().write(batch, sync=sync)


def test_pruning_goes_on_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_store, "CHUNK_OPERATIONS", 20)
    database = FailingDatabase()
    store = start(database)
    for height in range(1, 21):
        store.commit(make_block(height))
    database.batches_left = 3
    with pytest.raises(DiskFull):
        store.prune(15)
    after = ChainStore(database.reopen())
    assert 1 < after.base < 15
    assert after.base == store.base
    assert after.load_block(after.base) == b"block %d" % after.base
    done = after.base - 1
    assert after.prune(15) == 14 - done
    fresh = start(MemoryDatabase())
    for height in range(1, 21):
        fresh.commit(make_block(height))
    fresh.prune(15)
    assert get_everything(after._database) == get_everything(fresh._database)


def test_a_decided_block_is_one_synced_batch() -> None:
    database = ObservedDatabase()
    store = start(database)
    database.syncs.clear()
    store.commit(make_block(1, 100, {b"key": b"value"}, {"params": b"changed"}))
    assert database.syncs == [True]
    store.commit(make_block(2))
    store.prune(2)
    assert set(database.syncs) == {True}


def test_a_failed_commit_leaves_the_height_before() -> None:
    failing = FailingDatabase()
    store = start(failing)
    store.commit(make_block(1))
    failing.batches_left = 0
    with pytest.raises(DiskFull):
        store.commit(make_block(2))
    assert store.height == ChainStore(failing.reopen()).height == 1


@pytest.mark.parametrize("batches", range(6))
def test_a_crash_while_initializing_leaves_no_genesis(
    monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    monkeypatch.setattr(chain_store, "CHUNK_OPERATIONS", 10)
    database = FailingDatabase()
    database.batches_left = batches
    with pytest.raises(DiskFull):
        ChainStore(database).initialize(
            {b"%d" % number: b"old" for number in range(60)}, bucket_of, {}
        )
    after = MemoryDatabase()
    after._values, after._keys = database._values, database._keys
    store = ChainStore(after)
    assert not store.is_initialized
    store.initialize({b"new": b"value"}, bucket_of, {})
    assert list(store.iterate_state()) == [(bucket_of(b"new"), b"new", b"value")]


@pytest.mark.parametrize("operations", [7, 10_000])
def test_a_large_genesis_is_written_in_chunks(
    database: Database, monkeypatch: pytest.MonkeyPatch, operations: int
) -> None:
    monkeypatch.setattr(chain_store, "CHUNK_OPERATIONS", operations)
    monkeypatch.setattr(chain_store, "CHUNK_BYTES", 500)
    largest = 0
    write = database.write

    def observe(batch: Batch, *, sync: bool) -> None:
        nonlocal largest
        assert sync
        largest = max(largest, batch.get_bytes())
        write(batch, sync=sync)

    monkeypatch.setattr(database, "write", observe)
    store = ChainStore(database)
    store.initialize({b"%d" % number: b"value" for number in range(300)}, bucket_of, {})
    assert len(list(store.iterate_state())) == 300
    assert 0 < largest < 520


def test_an_unknown_format_is_refused_by_name(database: Database) -> None:
    start(database)
    batch = Batch()
    batch.put(b"mformat", (7).to_bytes(4, "big"))
    database.write(batch, sync=True)
    with pytest.raises(FormatUnknown, match=r"has format 7, .* understands format 2"):
        ChainStore(database)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"mformat", None),
        (b"mchain", None),
        (b"mchain", b""),
        (b"mchain", bytes(23)),
        (b"mchain", (1).to_bytes(8, "big") + (5).to_bytes(8, "big") + (4).to_bytes(8, "big")),
        (b"mchain", bytes(8) + (5).to_bytes(8, "big") * 2),
        (b"mchain", bytes(24)),
    ],
)
def test_facts_that_make_no_sense_are_damage(
    database: Database, key: bytes, value: bytes | None
) -> None:
    start(database)
    batch = Batch()
    batch.operations.append((key, value))
    database.write(batch, sync=True)
    with pytest.raises(DatabaseDamaged, match="restore the database from a backup"):
        ChainStore(database)


def test_pruning_a_block_that_is_missing_is_damage(database: Database) -> None:
    store = start(database)
    store.commit(make_block(1))
    store.commit(make_block(2))
    batch = Batch()
    batch.delete(layout.BLOCK_HASH + layout.encode_height(1))
    database.write(batch, sync=True)
    with pytest.raises(DatabaseDamaged, match="block 1 is missing"):
        store.prune(2)


WRITES = st.dictionaries(st.binary(max_size=2), st.none() | st.binary(max_size=3), max_size=8)


@settings(max_examples=25, deadline=None)
@given(heights=st.lists(st.tuples(WRITES, st.binary(max_size=1)), min_size=1, max_size=8))
def test_against_dicts(
    tmp_path_factory: pytest.TempPathFactory,
    heights: list[tuple[dict[bytes, bytes | None], bytes]],
) -> None:
    level = LevelDatabase(tmp_path_factory.mktemp("level"))
    stores = [start(level), start(MemoryDatabase())]
    state = {b"alice": b"10"}
    documents = [b"genesis"]
    for height, (writes, document) in enumerate(heights, start=1):
        for store in stores:
            store.commit(make_block(height, state=writes, documents={"params": document}))
        state.update((key, value) for key, value in writes.items() if value is not None)
        for key, value in writes.items():
            if value is None:
                state.pop(key, None)
        documents.append(document)
    for store in stores:
        assert {key: value for _, key, value in store.iterate_state()} == state
        assert [store.load_document("params", at) for at in range(len(documents))] == documents
    level.close()


def test_a_store_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    """Readers in another thread see whole heights only."""
    database = LevelDatabase(tmp_path)
    store = start(database)
    store.commit(make_block(1, state={b"a": b"1", b"b": b"1"}))
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            height = store.height
            if store.load_block(height) != b"block %d" % height:
                wrong.append(height)
            values = {value for _, key, value in store.iterate_state() if key in (b"a", b"b")}
            if len(values) != 1:
                wrong.append(values)

    reader = threading.Thread(target=read)
    reader.start()
    for height in range(2, 60):
        value = b"%d" % height
        store.commit(make_block(height, state={b"a": value, b"b": value}))
    stop.set()
    reader.join()
    assert wrong == []
    database.close()
