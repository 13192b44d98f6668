"""A file of slots has its newest record at every moment, torn or damaged."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import disk, slotted_file
from store.errors import DiskFull, StorageInaccessible
from store.slotted_file import (
    CELL_BYTES,
    FILE_BYTES,
    RECORD_BYTES_MAX,
    SlottedRecord,
    create_slotted,
    decode_slotted,
    write_slotted,
)


def make_data(number: int, length: int = 60) -> bytes:
    return (b"record %d " % number).ljust(length, b"%d" % (number % 10))


def write_up_to(path: Path, number: int) -> SlottedRecord:
    record = create_slotted(path, make_data(1))
    while record.number < number:
        record = write_slotted(path, record, make_data(record.number + 1))
    return record


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_the_newest_is_read(tmp_path: Path, number: int) -> None:
    path = tmp_path / "file"
    record = write_up_to(path, number)
    assert decode_slotted(path.read_bytes()) == record == (number, make_data(number))
    assert path.stat().st_size == FILE_BYTES
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_shorter_record_after_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    record = create_slotted(path, b"")
    for length in (RECORD_BYTES_MAX, 5, RECORD_BYTES_MAX, 0, 1):
        record = write_slotted(path, record, b"x" * length)
        assert decode_slotted(path.read_bytes()) == record
    with pytest.raises(ValueError, match="exceeds"):
        write_slotted(path, record, b"x" * (RECORD_BYTES_MAX + 1))
    assert decode_slotted(path.read_bytes()) == record


def get_written(path: Path, last: SlottedRecord, data: bytes) -> tuple[bytes, bytes, list[int]]:
    """Write; return the bytes before and after, and the places where they differ."""
    before = path.read_bytes()
    write_slotted(path, last, data)
    after = path.read_bytes()
    return before, after, [i for i in range(FILE_BYTES) if before[i] != after[i]]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_write_torn_at_every_byte(tmp_path: Path, number: int) -> None:
    path = tmp_path / "file"
    last = write_up_to(path, number)
    newer = SlottedRecord(number + 1, make_data(number + 1))
    before, after, changed = get_written(path, last, newer.data)
    assert len(changed) > 20
    seen = set()
    for cut in (*changed, FILE_BYTES):
        # Written from the front, or from the back, as far as this byte.
        for torn in (after[:cut] + before[cut:], before[:cut] + after[cut:]):
            record = decode_slotted(torn)
            assert record in (last, newer)
            seen.add(record)
    assert seen == {last, newer}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), min_size=FILE_BYTES // 512, max_size=FILE_BYTES // 512))
def test_any_sectors_of_a_write_are_missing(
    tmp_path_factory: pytest.TempPathFactory, is_written: list[bool]
) -> None:
    path = tmp_path_factory.mktemp("slots") / "file"
    last = create_slotted(path, make_data(1, 3_000))
    last = write_slotted(path, last, make_data(2, 3_000))
    before, after, _ = get_written(path, last, make_data(3, 3_000))
    torn = b"".join(
        (after if written else before)[i * 512 : (i + 1) * 512]
        for i, written in enumerate(is_written)
    )
    assert decode_slotted(torn) in (last, (3, make_data(3, 3_000)))


@pytest.mark.parametrize("number", [1, 4, 5])
def test_damage_to_any_byte_costs_nothing(tmp_path: Path, number: int) -> None:
    path = tmp_path / "file"
    record = write_up_to(path, number)
    whole = path.read_bytes()
    used = [i for i in range(FILE_BYTES) if whole[i]]
    for position in used:
        damaged = bytearray(whole)
        damaged[position] ^= 0x5A
        assert decode_slotted(bytes(damaged)) == record
    for cell in range(slotted_file.CELLS):
        lost = bytearray(whole)
        lost[cell * CELL_BYTES : (cell + 1) * CELL_BYTES] = bytes(CELL_BYTES)
        assert decode_slotted(bytes(lost)) == record


def test_another_length_or_nothing_whole_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_up_to(path, 3)
    whole = path.read_bytes()
    for bad in (b"", whole[:-1], whole + b"\x00", bytes(FILE_BYTES), whole[CELL_BYTES:]):
        assert decode_slotted(bad) is None
    # A cell in the place of another one has been put there by nobody who writes this format.
    moved = whole[2 * CELL_BYTES :] + whole[: 2 * CELL_BYTES]
    assert decode_slotted(moved) is None


def test_one_sync_and_never_on_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    record = write_up_to(path, 2)
    calls: list[str] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (calls.append("fdatasync"), real(fd)))
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    before = path.read_bytes()
    write_slotted(path, record, make_data(3))
    assert calls == ["fdatasync"]
    # An even number is in the first two cells.
    assert path.read_bytes()[: 2 * CELL_BYTES] == before[: 2 * CELL_BYTES]


def test_failures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    last = write_up_to(path, 2)

    def write_half(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(disk, "write_all", write_half)
        with pytest.raises(DiskFull):
            write_slotted(path, last, make_data(3))
    assert decode_slotted(path.read_bytes()) == last
    assert write_slotted(path, last, make_data(4)).number == 3
    path.unlink()
    with pytest.raises(StorageInaccessible):
        write_slotted(path, last, make_data(3))
