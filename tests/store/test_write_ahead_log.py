"""The write-ahead log: order, durability, segments, marks and limits."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quorate.chain.errors import InvariantError, StorageError

from store.errors import (
    DiskFull,
    FormatUnknown,
    LogDamaged,
    LogFull,
    LogLocked,
    MarkMissing,
    StorageClosed,
    StorageInaccessible,
)
from store.log_segment import (
    FRAME_OVERHEAD_BYTES,
    HEADER_BYTES,
    RECORD_BYTES_MAX,
)
from store.segmented_log import BUFFER_BYTES_MAX, SegmentedLog
from store.write_ahead_log import MemoryWriteAheadLog, WriteAheadLog
from tests.store.disks import LogDisk, write_synced


def test_records_come_back_in_order_after_a_close(log_disk: LogDisk) -> None:
    with log_disk.open() as log:
        log.append(b"first")
        log.append(b"")
        log.append(b"third")
    with log_disk.open() as log:
        assert list(log.records()) == [b"first", b"", b"third"]
        assert log.bytes_cut == 0
        log.append(b"fourth")
        assert list(log.records()) == [b"first", b"", b"third", b"fourth"]


def test_synced_records_survive_a_crash_and_buffered_ones_do_not(log_disk: LogDisk) -> None:
    log = log_disk.open()
    log.append(b"synced")
    log.sync()
    log.append(b"handed over")
    log.flush()
    log.append(b"still in this process")
    log_disk.crash()
    assert list(log_disk.open().records()) == [b"synced", b"handed over"]


def test_the_buffer_is_handed_over_at_its_limit(log_disk: LogDisk) -> None:
    log = log_disk.open()
    log.append(bytes(BUFFER_BYTES_MAX))
    log_disk.crash()
    assert list(log_disk.open().records()) == [bytes(BUFFER_BYTES_MAX)]


def test_opening_and_closing_adds_nothing(log_disk: LogDisk) -> None:
    with log_disk.open() as log:
        log.append(b"one")
    with log_disk.open() as log:
        size = log.bytes_total
    with log_disk.open() as log:
        assert log.bytes_total == size


def test_segments_rotate_and_stay_within_their_size(log_disk: LogDisk) -> None:
    records = [bytes([number]) * 40 for number in range(50)]
    with log_disk.open(segment_bytes_max=300) as log:
        for record in records:
            log.append(record)
        assert len(log.segments) > 5
        total = log.bytes_total
        assert list(log.records()) == records
    sizes = [len(log_disk.read(index)) for index in log_disk.get_indices()]
    # The last segment also holds the seal of an orderly close.
    assert max(sizes[:-1]) <= 300
    assert sum(sizes) == total + FRAME_OVERHEAD_BYTES
    with log_disk.open(segment_bytes_max=300) as log:
        assert list(log.records()) == records
        assert log.bytes_total == sum(sizes)
        last = log.segments[-1]
        tail = list(log.records(from_segment=last))
        assert 0 < len(tail) < 7
        assert tail == records[-len(tail) :]
        assert list(log.records(from_segment=last + 1)) == []


def test_a_record_larger_than_a_segment_has_one_of_its_own(log_disk: LogDisk) -> None:
    with log_disk.open(segment_bytes_max=300) as log:
        write_synced(log, b"small", b"x" * 1000, b"small again")
        assert log.segments == range(1, 4)
        assert list(log.records()) == [b"small", b"x" * 1000, b"small again"]


def test_records_since_a_mark(log_disk: LogDisk) -> None:
    with log_disk.open() as fresh:
        assert fresh.last_mark is None
    with log_disk.open(segment_bytes_max=300, segments_kept=9) as log:
        log.append(b"before")
        for height in (1, 2, 3):
            log.mark(height)
            for number in range(5):
                log.append(b"%d.%d" % (height, number))
        assert log.last_mark == 3
    with log_disk.open() as log:
        assert log.last_mark == 3
        assert list(log.records_since_mark(3)) == [b"3.%d" % number for number in range(5)]
        assert list(log.records_since_mark(2)) == [
            b"%d.%d" % (height, number) for height in (2, 3) for number in range(5)
        ]
        with pytest.raises(MarkMissing, match="no end of height 4"):
            log.records_since_mark(4)


def test_the_last_marker_of_a_height_counts(log_disk: LogDisk) -> None:
    with log_disk.open() as log:
        log.mark(1)
        log.append(b"once")
        log.mark(2)
        log.mark(1)
        log.append(b"again")
        log.mark(2)
        assert list(log.records_since_mark(1)) == [b"again"]


def test_a_mark_lets_older_segments_go(log_disk: LogDisk) -> None:
    with log_disk.open(segment_bytes_max=300, segments_kept=1) as log:
        write_synced(log, *[b"x" * 100] * 20)
        assert len(log.segments) == 10
        log.mark(7)
        assert log.segments == range(9, 11)
        assert log_disk.get_indices() == [9, 10]
        assert log.bytes_total == sum(len(log_disk.read(index)) for index in (9, 10))
        write_synced(log, b"after")
    with log_disk.open() as log:
        assert log.segments == range(9, 12)
        assert list(log.records_since_mark(7)) == [b"after"]
        with pytest.raises(MarkMissing):
            log.records_since_mark(6)


def test_a_sync_is_one_fdatasync_and_none_without_anything_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = WriteAheadLog(tmp_path / "log")
    sizes: list[int] = []
    fdatasync = os.fdatasync

    def observe(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", observe)
    log.append(b"one")
    log.append(b"two")
    log.flush()
    assert sizes == []
    log.sync()
    log.sync()
    assert sizes == [log.bytes_total]
    log.close()


def test_closing_a_filled_segment_begins_no_other(log_disk: LogDisk) -> None:
    with log_disk.open(segment_bytes_max=300) as log:
        log.append(bytes(300 - HEADER_BYTES - FRAME_OVERHEAD_BYTES))
        assert log.bytes_total == 300
    assert log_disk.get_indices() == [1]
    assert log_disk.open().bytes_total == 300 + FRAME_OVERHEAD_BYTES


def test_a_mark_is_durable_before_segments_go() -> None:
    log = MemoryWriteAheadLog(segment_bytes_max=300, segments_kept=0)
    write_synced(log, *[b"x" * 100] * 20)
    log.mark(7)
    after = MemoryWriteAheadLog(log.memory.reopen(power_failed=True))
    assert after.last_mark == 7


def append_without_end(log: SegmentedLog) -> None:
    while True:
        log.append(b"")


def test_the_log_has_a_limit_of_bytes(log_disk: LogDisk) -> None:
    with log_disk.open(segment_bytes_max=300, log_bytes_max=1000, segments_kept=0) as log:
        write_synced(log, *[b"x" * 100] * 7)
        with pytest.raises(LogFull, match="limit of 1000 bytes"):
            log.append(b"x" * 100)
        assert 900 < log.bytes_total <= 1000
        assert len(list(log.records())) == 7
        with pytest.raises(LogFull):
            append_without_end(log)
        assert log.bytes_total > 1000 - FRAME_OVERHEAD_BYTES
        log.mark(1)
    with log_disk.open(segment_bytes_max=300, log_bytes_max=1000, segments_kept=0) as log:
        log.append(b"x" * 200)


def test_the_largest_record_is_kept_and_a_larger_one_is_a_defect(log_disk: LogDisk) -> None:
    with log_disk.open() as log:
        largest = os.urandom(1 << 20) * (RECORD_BYTES_MAX >> 20)
        assert len(largest) == RECORD_BYTES_MAX
        log.append(largest)
        with pytest.raises(InvariantError, match="exceeds"):
            log.append(largest + b"x")
    with log_disk.open() as log:
        assert list(log.records()) == [largest]


@pytest.mark.parametrize("height", [-1, 2**63])
def test_a_height_out_of_range_is_a_defect(log_disk: LogDisk, height: int) -> None:
    with log_disk.open() as log, pytest.raises(InvariantError):
        log.mark(height)


def test_impossible_limits_are_a_defect() -> None:
    with pytest.raises(InvariantError):
        MemoryWriteAheadLog(segment_bytes_max=HEADER_BYTES)
    with pytest.raises(InvariantError):
        MemoryWriteAheadLog(segments_kept=-1)


def test_a_closed_log_says_so(log_disk: LogDisk) -> None:
    log = log_disk.open()
    log.close()
    log.close()
    for use in (log.sync, log.records, lambda: log.append(b""), lambda: log.mark(1)):
        with pytest.raises(StorageClosed):
            use()


def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    with WriteAheadLog(tmp_path / "log"), pytest.raises(LogLocked, match="another process"):
        WriteAheadLog(tmp_path / "log")
    WriteAheadLog(tmp_path / "log").close()


def test_a_refused_opening_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    WriteAheadLog(folder).close()
    segment = folder / "000000000001.wal"
    data = segment.read_bytes()
    segment.write_bytes(b"?" + data[1:])
    with pytest.raises(LogDamaged):
        WriteAheadLog(folder)
    segment.write_bytes(data)
    WriteAheadLog(folder).close()


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageInaccessible, match="cannot be used"):
        WriteAheadLog(tmp_path / "file" / "log")


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.binary(max_size=120),
            st.sampled_from(["sync", "flush", "crash", "power", "close", "mark"]),
        ),
        max_size=60,
    )
)
def test_against_a_list(steps: list[bytes | str]) -> None:
    """A log loses nothing but what was not synced, whatever happens in which order."""
    log = MemoryWriteAheadLog(segment_bytes_max=400, segments_kept=0)
    everything: list[bytes] = []
    marks: list[tuple[int, int]] = []
    flushed = synced = 0
    for step in steps:
        if isinstance(step, bytes):
            log.append(step)
            everything.append(step)
        elif step == "mark":
            log.mark(len(marks) + 1)
            marks.append((len(marks) + 1, len(everything)))
        elif step in ("sync", "flush"):
            getattr(log, step)()
            flushed = len(everything)
            synced = flushed if step == "sync" else synced
        else:
            if step == "close":
                log.close()
                synced = flushed = len(everything)
            power_failed = step == "power"
            log = MemoryWriteAheadLog(
                log.memory.reopen(power_failed=power_failed),
                segment_bytes_max=400,
                segments_kept=0,
            )
            held = list(log.records())
            if log.last_mark is None:
                start = 0
            else:
                marks = marks[: log.last_mark]
                start = marks[-1][1]
                held = list(log.records_since_mark(log.last_mark))
            minimum = synced if power_failed else max(flushed, synced)
            assert len(held) >= minimum - start
            assert held == everything[start : start + len(held)]
            everything = everything[: start + len(held)]
            flushed = synced = len(everything)


def test_every_error_of_the_log_is_a_storage_error() -> None:
    for error in (DiskFull, FormatUnknown, LogDamaged, LogFull, LogLocked, MarkMissing):
        assert issubclass(error, StorageError)
