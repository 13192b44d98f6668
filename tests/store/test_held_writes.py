"""Batches that wait in memory: read like written ones, durable together or not at all."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.chain_store import ChainStore
from store.database import Batch, LevelDatabase, MemoryDatabase
from store.errors import StorageClosed
from store.held_writes import HeldWrites
from tests.store.test_chain_store import bucket_of, make_block, start

KEYS = st.sampled_from([bytes([a, b]) for a in range(4) for b in range(4)])
OPERATIONS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), max_size=6)
STEPS = st.lists(
    st.tuples(st.sampled_from(["hold", "write", "flush"]), OPERATIONS), min_size=1, max_size=12
)


def make_batch(operations: list[tuple[bytes, bytes | None]]) -> Batch:
    batch = Batch()
    batch.operations += operations
    return batch


@settings(max_examples=200, deadline=None)
@given(STEPS, KEYS, KEYS, st.booleans())
def test_readers_see_what_waits_as_if_it_were_written(
    steps: list[tuple[str, list[tuple[bytes, bytes | None]]]],
    start_key: bytes,
    stop_key: bytes,
    reverse: bool,
) -> None:
    below = MemoryDatabase()
    held, plain = HeldWrites(below), MemoryDatabase()
    for kind, operations in steps:
        if kind == "flush":
            held.flush()
            continue
        batch = make_batch(operations)
        plain.write(batch, sync=True)
        held.hold(batch) if kind == "hold" else held.write(batch, sync=True)
        if kind == "write":
            assert list(below.iterate(b"\x00", b"\xff")) == list(plain.iterate(b"\x00", b"\xff"))
    wanted = list(plain.iterate(start_key, stop_key, reverse=reverse))
    assert list(held.iterate(start_key, stop_key, reverse=reverse)) == wanted
    everything = list(plain.iterate(b"\x00", b"\xff"))
    assert [(key, held.get(key)) for key, _ in everything] == everything
    held.flush()
    assert held.held_bytes == 0
    assert list(below.iterate(b"\x00", b"\xff")) == everything


def test_an_iteration_sees_the_entries_of_its_call() -> None:
    held = HeldWrites(MemoryDatabase())
    held.hold(make_batch([(b"a", b"1"), (b"b", b"2")]))
    entries = held.iterate(b"a", b"z")
    held.write(make_batch([(b"a", None), (b"b", b"3"), (b"c", b"4")]), sync=True)
    assert list(entries) == [(b"a", b"1"), (b"b", b"2")]


def test_all_that_waits_is_one_synced_batch() -> None:
    class Counting(MemoryDatabase):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[tuple[int, bool]] = []

        def write(self, batch: Batch, *, sync: bool) -> None:
            self.batches.append((len(batch.operations), sync))
            super().write(batch, sync=sync)

    below = Counting()
    held = HeldWrites(below)
    for number in range(5):
        held.hold(make_batch([(bytes([number]), b"")]))
    assert held.held_bytes == 5
    assert below.batches == []
    held.flush()
    held.flush()
    assert below.batches == [(5, True)]


def test_what_waited_is_lost_as_a_whole(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    store = start(database)
    store.commit(make_block(1))
    for height in (2, 3, 4):
        store.commit(make_block(height, state={b"alice": b"%d" % height}), is_held=True)
    assert store.height == 4
    assert store.load_block(4) == b"block 4"
    assert store.get_state(bucket_of(b"alice"), b"alice") == b"4"
    database.close()
    with LevelDatabaseAt(tmp_path) as again:
        reopened = ChainStore(again)
        assert reopened.height == 1
        assert reopened.load_block(2) is None
        assert reopened.get_state(bucket_of(b"alice"), b"alice") == b"10"


def test_blocks_become_durable_with_the_next_that_does_not_wait(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    store = start(database)
    store.commit(make_block(1), is_held=True)
    assert store.held_bytes > 0
    store.commit(make_block(2))
    assert store.held_bytes == 0
    store.commit(make_block(3), is_held=True)
    store.flush()
    database.close()
    with pytest.raises(StorageClosed):
        store.commit(make_block(4))
    with LevelDatabaseAt(tmp_path) as again:
        reopened = ChainStore(again)
        assert [reopened.load_block(height) for height in (1, 2, 3)] == [
            b"block 1",
            b"block 2",
            b"block 3",
        ]


class LevelDatabaseAt:
    """A database that is closed at the end of a block."""

    def __init__(self, folder: Path) -> None:
        self._database = LevelDatabase(folder)

    def __enter__(self) -> LevelDatabase:
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.close()
