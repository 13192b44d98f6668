"""The write-ahead log after crashes, power failures, damage and on a full disk."""

import signal
from pathlib import Path
from typing import cast

import pytest

from store.errors import (
    DiskFull,
    FormatUnknown,
    LogDamaged,
    StorageClosed,
)
from store.log_segment import (
    FRAME_OVERHEAD_BYTES,
    HEADER_BYTES,
    Kind,
    encode_frame,
    encode_header,
)
from store.segment_folder import MemorySegmentFolder
from store.write_ahead_log import MemoryWriteAheadLog, WriteAheadLog
from tests.store.disks import LogDisk, flip, run_python, start_python, write_synced


def test_a_power_failure_spares_what_was_synced() -> None:
    log = MemoryWriteAheadLog()
    log.append(b"synced")
    log.sync()
    log.append(b"flushed")
    log.flush()
    after = MemoryWriteAheadLog(log.memory.reopen(power_failed=True))
    assert list(after.records()) == [b"synced"]


def test_a_torn_tail_is_cut_at_every_position(log_disk: LogDisk) -> None:
    log = log_disk.open()
    write_synced(log, b"one", b"two")
    intact = log.bytes_total
    log.append(b"the last record")
    log.flush()
    whole = log.bytes_total
    contents = log_disk.read(1)
    for size in range(intact, whole):
        log_disk.crash()
        log_disk.write(1, contents[:size])
        torn = log_disk.open()
        assert torn.bytes_cut == size - intact
        assert list(torn.records()) == [b"one", b"two"]
        write_synced(torn, b"after the crash")
        log_disk.crash()
        assert list(log_disk.open().records()) == [b"one", b"two", b"after the crash"]


def test_a_changed_or_empty_tail_is_cut_at_every_position(log_disk: LogDisk) -> None:
    log = log_disk.open()
    write_synced(log, b"one", b"two")
    intact = log.bytes_total
    log.append(b"the last record")
    log.flush()
    whole = log.bytes_total
    contents = log_disk.read(1)
    for offset in range(intact, whole):
        zeroed = contents[:offset] + bytes(whole - offset)
        for tail in (flip(contents, offset), zeroed, zeroed + bytes(5000)):
            log_disk.crash()
            log_disk.write(1, tail)
            assert list(log_disk.open().records()) == [b"one", b"two"]


def test_pages_that_reached_the_disk_out_of_order_are_a_torn_tail(log_disk: LogDisk) -> None:
    log = log_disk.open()
    write_synced(log, b"synced")
    intact = log.bytes_total
    log.append(b"torn")
    log.append(b"whole, but never synced either")
    log.flush()
    log_disk.crash()
    log_disk.write(1, flip(log_disk.read(1), intact))
    assert list(log_disk.open().records()) == [b"synced"]


def test_damage_before_the_tail_is_refused_at_every_position(log_disk: LogDisk) -> None:
    log = log_disk.open()
    write_synced(log, b"one", b"two", b"three")
    last = log.bytes_total - FRAME_OVERHEAD_BYTES - len(b"three")
    for offset in range(last):
        log_disk.crash()
        log_disk.write(1, flip(log_disk.read(1), offset))
        with pytest.raises(LogDamaged, match="move the log's folder away"):
            log_disk.open()
        log_disk.write(1, flip(log_disk.read(1), offset))
    assert list(log_disk.open().records()) == [b"one", b"two", b"three"]


def test_after_an_orderly_close_any_damage_to_a_record_is_refused(log_disk: LogDisk) -> None:
    with log_disk.open() as log:
        log.append(b"one")
        log.append(b"two")
        size = log.bytes_total
    for offset in range(size):
        log_disk.write(1, flip(log_disk.read(1), offset))
        with pytest.raises(LogDamaged):
            log_disk.open()
        log_disk.write(1, flip(log_disk.read(1), offset))
    assert list(log_disk.open().records()) == [b"one", b"two"]


def test_a_record_with_the_bytes_of_another_log_is_only_a_record(log_disk: LogDisk) -> None:
    """A peer may send bytes that look like frames; torn, they must not look like damage."""
    other = MemoryWriteAheadLog()
    write_synced(other, b"a", b"b" * 500, b"c")
    log = log_disk.open()
    write_synced(log, b"one")
    log.append(other.memory.read(1) * 3)
    log.flush()
    log_disk.crash()
    log_disk.write(1, log_disk.read(1)[:-1])
    assert list(log_disk.open().records()) == [b"one"]


def test_damage_in_an_older_segment_is_refused_even_at_its_end(log_disk: LogDisk) -> None:
    with log_disk.open(segment_bytes_max=300) as log:
        write_synced(log, *[b"x" * 100] * 6)
    log_disk.write(1, log_disk.read(1)[:-1])
    with pytest.raises(LogDamaged, match="before its tail"):
        log_disk.open()


def test_a_missing_segment_is_refused(tmp_path: Path) -> None:
    with WriteAheadLog(tmp_path / "log", segment_bytes_max=300) as log:
        write_synced(log, *[b"x" * 100] * 6)
    (tmp_path / "log" / "000000000002.wal").unlink()
    with pytest.raises(LogDamaged, match=r"000000000002\.wal is missing"):
        WriteAheadLog(tmp_path / "log")


def test_a_segment_under_another_name_is_refused(tmp_path: Path) -> None:
    with WriteAheadLog(tmp_path / "log") as log:
        log.append(b"one")
    (tmp_path / "log" / "000000000001.wal").rename(tmp_path / "log" / "000000000002.wal")
    with pytest.raises(LogDamaged):
        WriteAheadLog(tmp_path / "log")


def test_a_file_cut_within_its_header_is_refused(log_disk: LogDisk) -> None:
    with log_disk.open() as log:
        log.append(b"one")
    log_disk.write(1, log_disk.read(1)[: HEADER_BYTES - 1])
    with pytest.raises(LogDamaged, match="at byte 0"):
        log_disk.open()


def test_an_unknown_format_is_refused_by_name(
    log_disk: LogDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_disk.open().close()
    monkeypatch.setattr("store.log_segment.FORMAT_VERSION", 9)
    header = encode_header(1, b"salt")
    monkeypatch.undo()
    log_disk.write(1, header)
    with pytest.raises(FormatUnknown, match=r"has format 9 .* understands format 1"):
        log_disk.open()


def test_a_crashed_rotation_is_swept_and_other_files_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    WriteAheadLog(folder).close()
    (folder / "000000000002.wal.tmp").write_bytes(b"half a header")
    (folder / "README.wal").write_bytes(b"somebody's note")
    with WriteAheadLog(folder) as log:
        assert log.segments == range(1, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["000000000001.wal", "README.wal"]


def test_filled_segments_survive_a_power_failure() -> None:
    """Only the last segment may lose anything: a gap before it could not be seen."""
    records = [b"%d" % number * 60 for number in range(8)]
    log = MemoryWriteAheadLog(segment_bytes_max=300)
    for record in records:
        log.append(record)
    n_segments = len(log.segments)
    assert n_segments > 2
    after = MemoryWriteAheadLog(log.memory.reopen(power_failed=True))
    held = list(after.records())
    assert len(held) >= n_segments - 1
    assert held == records[: len(held)]


def test_a_frame_of_an_unknown_kind_is_refused_by_name(log_disk: LogDisk) -> None:
    log = log_disk.open()
    write_synced(log, b"one")
    unknown = cast("Kind", 9)
    log_disk.crash()
    log_disk.write(1, log_disk.read(1) + encode_frame(log._header, unknown, b"new", 0))
    with pytest.raises(FormatUnknown, match="frame of kind 9"):
        log_disk.open()


class FullFolder(MemorySegmentFolder):
    """A disk that takes a few bytes more, then no others, until it is given room."""

    room = 1 << 20

    def append(self, data: bytes | bytearray | memoryview) -> None:
        taken = bytes(data)[: self.room]
        self.room -= len(taken)
        super().append(taken)
        if len(taken) < len(data):
            raise DiskFull("The disk has no room.")


@pytest.mark.parametrize("room", [0, 1, 30, 49])
def test_a_failed_write_makes_the_log_unusable_until_opened_again(room: int) -> None:
    folder = FullFolder()
    log = MemoryWriteAheadLog(folder)
    write_synced(log, b"durable")
    folder.room = room
    log.append(b"x" * 33)
    with pytest.raises(DiskFull):
        log.sync()
    folder.room = 1 << 20
    for use in (log.sync, log.flush, lambda: log.append(b"")):
        with pytest.raises(StorageClosed, match="earlier write"):
            use()
    log.close()
    after = MemoryWriteAheadLog(folder.reopen())
    assert list(after.records()) == [b"durable"]
    assert after.bytes_cut == room


CHILD_WITH_A_FILE_LIMIT = """
import resource, sys
from pathlib import Path
from store.errors import DiskFull, StorageClosed
from store.write_ahead_log import WriteAheadLog

log = WriteAheadLog(Path(sys.argv[1]))
log.append(b"durable")
log.sync()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
log.append(bytes(8192))
try:
    log.sync()
except DiskFull as error:
    print(error)
try:
    log.append(b"more")
except StorageClosed:
    print("unusable")
log.close()
"""


def test_a_file_size_limit_is_a_full_disk_and_loses_nothing_durable(
    tmp_path: Path,
) -> None:
    output, errors = run_python(CHILD_WITH_A_FILE_LIMIT, tmp_path / "log")
    assert errors == ""
    sentence, state = output.splitlines()
    assert "no room" in sentence
    assert state == "unusable"
    with WriteAheadLog(tmp_path / "log") as log:
        assert list(log.records()) == [b"durable"]
        assert log.bytes_cut > 0


CHILD_THAT_IS_KILLED = """
import sys
from pathlib import Path
from store.write_ahead_log import WriteAheadLog

log = WriteAheadLog(Path(sys.argv[1]), segment_bytes_max=4096)
number = 0
while True:
    for _ in range(3):
        log.append(b"%d" % number + b"x" * (number % 700))
        number += 1
    log.sync()
    sys.stdout.write("%d\\n" % number)
    sys.stdout.flush()
    log.append(b"never synced")
    if number % 2:
        log.flush()
"""


@pytest.mark.parametrize("acknowledged", [1, 40])
def test_every_synced_record_survives_kill_9(tmp_path: Path, acknowledged: int) -> None:
    child = start_python(CHILD_THAT_IS_KILLED, tmp_path / "log")
    with child:
        assert child.stdout is not None
        for _ in range(acknowledged):
            synced = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        for line in child.stdout:
            synced = int(line) if line.endswith("\n") else synced
    with WriteAheadLog(tmp_path / "log") as log:
        numbers = [
            int(record.partition(b"x")[0]) for record in log.records() if record != b"never synced"
        ]
    assert numbers[:synced] == list(range(synced))
    assert numbers == list(range(len(numbers)))
