"""Taking blocks back: afterwards the store is what it was before them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import layout
from store.chain_store import ChainStore
from store.database import Batch, Database, MemoryDatabase
from store.errors import DatabaseDamaged, DiskFull, NothingToUndo
from store.undo import UNDO_HEIGHTS_MAX
from tests.store.disks import DatabaseDisk
from tests.store.test_chain_store import bucket_of, make_block, start

Entries = list[tuple[bytes, bytes]]
Changes = dict[bytes, bytes | None]


def get_contents(database: Database) -> Entries:
    """Everything but what is kept for taking back."""
    return [
        entry
        for entry in database.iterate(b"\x00", b"\xff")
        if not entry[0].startswith(layout.UNDO)
    ]


changes = st.dictionaries(
    st.sampled_from([b"alice", b"bob", b"carol", b"dave"]),
    st.one_of(st.none(), st.binary(max_size=3)),
)
documents = st.dictionaries(st.sampled_from(["position", "params", "x"]), st.binary(max_size=3))


@given(st.lists(st.tuples(changes, documents), min_size=1, max_size=12), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_each_block_taken_back_leaves_what_was_before(
    blocks: list[tuple[Changes, dict[str, bytes]]], initial_height: int
) -> None:
    database = MemoryDatabase()
    store = start(database, initial_height=initial_height)
    snapshots = []
    for height, (state, named) in enumerate(blocks, initial_height):
        snapshots.append((store.base, store.height, get_contents(database)))
        store.commit(make_block(height, state=state, documents=named))
    for base, height, contents in reversed(snapshots):
        assert store.rollback() == height
        assert (store.base, store.height) == (base, height)
        assert get_contents(database) == contents
    assert not list(database.iterate(*layout.get_range(layout.UNDO)))
    with pytest.raises(NothingToUndo):
        store.rollback()


def test_a_block_taken_back_stays_back(database_disk: DatabaseDisk) -> None:
    store = start(database_disk.reopen())
    store.commit(make_block(1, state={b"alice": b"11", b"bob": b"1"}))
    store.commit(make_block(2, state={b"alice": None, b"bob": b"2"}))
    assert store.rollback() == 1
    store = ChainStore(database_disk.reopen())
    assert (store.base, store.height) == (1, 1)
    assert store.get_state(bucket_of(b"alice"), b"alice") == b"11"
    assert store.get_state(bucket_of(b"bob"), b"bob") == b"1"
    assert store.load_block(2) is None
    store.commit(make_block(2, state={b"alice": b"12"}))
    assert store.load_block(2) == b"block 2"


def test_only_the_last_blocks_can_be_taken_back(database: Database) -> None:
    store = start(database)
    count = UNDO_HEIGHTS_MAX + 5
    for height in range(1, count + 1):
        store.commit(make_block(height, state={b"alice": b"%d" % height}))
    for _ in range(UNDO_HEIGHTS_MAX):
        store.rollback()
    before = list(database.iterate(b"\x00", b"\xff"))
    with pytest.raises(NothingToUndo, match="reset-state"):
        store.rollback()
    assert list(database.iterate(b"\x00", b"\xff")) == before
    assert store.height == count - UNDO_HEIGHTS_MAX


def test_a_pruned_parent_cannot_be_gone_back_to(database: Database) -> None:
    store = start(database)
    for height in (1, 2, 3):
        store.commit(make_block(height))
    store.prune(3)
    with pytest.raises(NothingToUndo):
        store.rollback()
    assert store.height == 3


def test_a_damaged_record_is_refused(database: Database) -> None:
    store = start(database)
    store.commit(make_block(1))
    batch = Batch()
    batch.put(layout.UNDO + layout.encode_height(1), b"\xff")
    database.write(batch, sync=True)
    with pytest.raises(DatabaseDamaged, match="what block 1 changed"):
        store.rollback()
    assert store.height == 1


class _FullDatabase(MemoryDatabase):
    is_full = False

    def write(self, batch: Batch, *, sync: bool) -> None:
        if self.is_full:
            raise DiskFull("full")
        super().write(batch, sync=sync)


def test_a_full_disk_takes_nothing_back() -> None:
    database = _FullDatabase()
    store = start(database)
    store.commit(make_block(1))
    before = list(database.iterate(b"\x00", b"\xff"))
    database.is_full = True
    with pytest.raises(DiskFull):
        store.rollback()
    assert store.height == 1
    assert list(database.iterate(b"\x00", b"\xff")) == before
