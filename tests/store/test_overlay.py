"""A database in memory above another one: as if the writes had been done."""

from hypothesis import given, settings
from hypothesis import strategies as st

from store.database import Batch, MemoryDatabase
from store.overlay import OverlayDatabase

KEYS = [bytes([letter]) for letter in b"abcdefgh"]

operations = st.lists(
    st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.binary(max_size=2))), max_size=12
)


def make_batch(written: list[tuple[bytes, bytes | None]]) -> Batch:
    batch = Batch()
    batch.operations += written
    return batch


@given(operations, operations, st.sampled_from(KEYS), st.sampled_from(KEYS), st.booleans())
@settings(max_examples=200, deadline=None)
def test_it_reads_like_a_database_with_both(
    first: list[tuple[bytes, bytes | None]],
    second: list[tuple[bytes, bytes | None]],
    start: bytes,
    stop: bytes,
    reverse: bool,
) -> None:
    below, both = MemoryDatabase(), MemoryDatabase()
    below.write(make_batch(first), sync=True)
    both.write(make_batch(first), sync=True)
    before = list(below.iterate(b"", b"z"))
    overlay = OverlayDatabase(below)
    overlay.write(make_batch(second), sync=True)
    both.write(make_batch(second), sync=True)
    assert [overlay.get(key) for key in KEYS] == [both.get(key) for key in KEYS]
    ranged = list(overlay.iterate(start, stop, reverse=reverse))
    assert ranged == list(both.iterate(start, stop, reverse=reverse))
    assert list(below.iterate(b"", b"z")) == before
    overlay.close()
    assert list(overlay.iterate(b"", b"z")) == before
