"""The database: the same map on disk and in memory, and LevelDB's failures told in sentences."""

import errno
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import plyvel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quorate.chain.errors import InvariantError, StorageError

from store import database as database_module
from store.database import Batch, Database, LevelDatabase, MemoryDatabase
from store.errors import (
    DatabaseDamaged,
    DatabaseLocked,
    DiskFull,
    StorageClosed,
    StorageInaccessible,
)
from store.level_errors import translate_level_error
from tests.store.disks import DatabaseDisk, LevelDisk, flip, run_python, start_python

WAY_OUT = "is damaged .*: check the disk, then restore the folder from a backup"


def write(database: Database, *operations: tuple[bytes, bytes | None], sync: bool = True) -> None:
    batch = Batch()
    batch.operations += operations
    database.write(batch, sync=sync)


def test_a_batch_applies_puts_and_deletes_in_order(database: Database) -> None:
    batch = Batch()
    batch.put(b"a", b"1")
    batch.put(b"b", b"2")
    batch.delete(b"a")
    batch.put(b"c", b"3")
    batch.put(b"c", b"")
    batch.delete(b"absent")
    assert batch.get_bytes() == 14
    database.write(batch, sync=False)
    assert [database.get(key) for key in (b"a", b"b", b"c", b"d")] == [None, b"2", b"", None]


def test_iteration_is_ordered_and_half_open(database: Database) -> None:
    write(database, *((bytes([number]), b"%d" % number) for number in (9, 3, 200, 5, 7)))
    assert [key[0] for key, _ in database.iterate(b"\x03", b"\x09")] == [3, 5, 7]
    assert [key[0] for key, _ in database.iterate(b"\x03", b"\x09", reverse=True)] == [7, 5, 3]
    assert list(database.iterate(b"\x04", b"\x04")) == []
    assert dict(database.iterate(b"\x09", b"\xff")) == {b"\x09": b"9", b"\xc8": b"200"}


def test_iteration_sees_the_entries_of_its_call(database: Database) -> None:
    write(database, (b"a", b"1"), (b"b", b"2"))
    entries = database.iterate(b"a", b"z")
    write(database, (b"a", None), (b"b", b"changed"), (b"c", b"3"))
    assert list(entries) == [(b"a", b"1"), (b"b", b"2")]
    assert list(database.iterate(b"a", b"z")) == [(b"b", b"changed"), (b"c", b"3")]


def test_an_iteration_may_be_left_early(database_disk: DatabaseDisk) -> None:
    database = database_disk.reopen()
    write(database, *((bytes([number]), b"") for number in range(100)))
    assert next(database.iterate(b"\x05", b"\x50")) == (b"\x05", b"")
    left = database.iterate(b"\x05", b"\x50")
    next(left)
    reopened = database_disk.reopen()
    assert reopened.get(b"\x05") == b""


def test_the_entries_are_there_after_reopening(database_disk: DatabaseDisk) -> None:
    write(database_disk.reopen(), (b"key", b"value"))
    assert database_disk.reopen().get(b"key") == b"value"


def test_a_closed_database_says_so(database_disk: DatabaseDisk) -> None:
    database = database_disk.reopen()
    write(database, *((bytes([number]), b"") for number in range(100)))
    entries = database.iterate(b"\x00", b"\xff")
    next(entries)
    database.close()
    database.close()
    with pytest.raises(StorageClosed, match="closed"):
        database.get(b"key")
    with pytest.raises(StorageClosed, match="closed"):
        database.iterate(b"a", b"b")
    with pytest.raises(StorageClosed, match="closed"):
        write(database, (b"key", b"value"))


def test_iterating_over_a_closed_database_says_so(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    write(database, (b"a", b""), (b"b", b""))
    entries = database.iterate(b"a", b"z")
    next(entries)
    database.close()
    with pytest.raises(StorageClosed, match="closed"):
        next(entries)


def test_a_batch_has_a_limit_of_bytes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BATCH_BYTES_MAX", 10)
    write(database, (b"12345", b"12345"))
    with pytest.raises(InvariantError, match="exceeds the limit of 10"):
        write(database, (b"12345", b"123456"))
    assert database.get(b"12345") == b"12345"


KEYS = st.binary(max_size=3)
BATCHES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=4)), max_size=100)


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(BATCHES, max_size=6), start=KEYS, stop=KEYS)
def test_both_databases_against_a_dict(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[bytes, bytes | None]]],
    start: bytes,
    stop: bytes,
) -> None:
    level = LevelDatabase(tmp_path_factory.mktemp("level"))
    memory = MemoryDatabase()
    expected: dict[bytes, bytes] = {}
    for operations in batches:
        for database in (level, memory):
            write(database, *operations, sync=False)
        for key, value in operations:
            if value is None:
                expected.pop(key, None)
            else:
                expected[key] = value
        entries = sorted(entry for entry in expected.items() if start <= entry[0] < stop)
        for database in (level, memory):
            assert list(database.iterate(start, stop)) == entries
            assert list(database.iterate(start, stop, reverse=True)) == entries[::-1]
            assert all(database.get(key) == expected.get(key) for key, _ in operations)
    level.close()


CHILD_THAT_HOLDS_THE_DATABASE = """
import sys
from pathlib import Path
from store.database import LevelDatabase

database = LevelDatabase(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
"""

CHILD_THAT_HOLDS_LEVELDB = """
import sys, plyvel

level = plyvel.DB(sys.argv[1], create_if_missing=True)
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("child", [CHILD_THAT_HOLDS_THE_DATABASE, CHILD_THAT_HOLDS_LEVELDB])
def test_a_database_in_use_by_another_process_is_told_in_one_sentence(
    tmp_path: Path, child: str
) -> None:
    with start_python(child, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(DatabaseLocked, match="in use by another process: stop that one first"):
            LevelDatabase(tmp_path)
        process.communicate("\n", timeout=10)
    LevelDatabase(tmp_path).close()


def test_a_second_opener_never_loosens_the_lock(tmp_path: Path) -> None:
    """LevelDB's own lock would be gone after the refused attempt."""
    database = LevelDatabase(tmp_path)
    with pytest.raises(DatabaseLocked):
        LevelDatabase(tmp_path)
    output, errors = run_python(
        "import sys\n"
        "from pathlib import Path\n"
        "from store.database import LevelDatabase\n"
        "from store.errors import DatabaseLocked\n"
        "try:\n"
        "    LevelDatabase(Path(sys.argv[1]))\n"
        "except DatabaseLocked:\n"
        "    print('locked')\n",
        tmp_path,
    )
    assert (output, errors) == ("locked\n", "")
    database.close()


def fill(folder: Path) -> list[Path]:
    """Fill a database so that it has table files; return these."""
    level = plyvel.DB(str(folder), create_if_missing=True, compression=None)
    for number in range(2000):
        level.put(b"%06d" % number, bytes([number % 256]) * 100)
    level.compact_range()
    level.close()
    tables = sorted(folder.glob("*.ldb"))
    assert tables
    return tables


def read_all(folder: Path) -> None:
    database = LevelDatabase(folder)
    try:
        assert len(list(database.iterate(b"0", b"9"))) == 2000
    finally:
        database.close()


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST-*", "*.ldb"])
@pytest.mark.parametrize("harm", ["garbage", "missing", "cut", "empty"])
def test_a_damaged_file_is_told_with_the_way_out(tmp_path: Path, name: str, harm: str) -> None:
    fill(tmp_path)
    read_all(tmp_path)
    (path, *_) = tmp_path.glob(name)
    content = path.read_bytes()
    match harm:
        case "garbage":
            path.write_bytes(bytes(range(256)) * (len(content) // 256 + 1))
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case _:
            path.write_bytes(b"")
    with pytest.raises(DatabaseDamaged, match=WAY_OUT):
        read_all(tmp_path)
    path.write_bytes(content)
    read_all(tmp_path)


def test_a_changed_byte_in_a_table_never_passes_for_data(tmp_path: Path) -> None:
    table = fill(tmp_path)[0]
    content = table.read_bytes()
    table.write_bytes(flip(content, len(content) // 3))
    database = LevelDatabase(tmp_path)
    with pytest.raises(DatabaseDamaged, match=WAY_OUT):
        list(database.iterate(b"0", b"9"))
    with pytest.raises(DatabaseDamaged, match=WAY_OUT):
        list(database.iterate(b"0", b"9", reverse=True))
    refused = 0
    for number in range(2000):
        try:
            assert database.get(b"%06d" % number) == bytes([number % 256]) * 100
        except DatabaseDamaged:
            refused += 1
    assert refused > 0
    database.close()


def test_a_changed_byte_in_leveldbs_own_log_is_told_with_the_way_out(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    for number in range(20):
        write(database, (b"%d" % number, bytes(1000)))
    database.close()
    (path,) = tmp_path.glob("*.log")
    path.write_bytes(flip(path.read_bytes(), 10_000))
    with pytest.raises(DatabaseDamaged, match=WAY_OUT):
        LevelDatabase(tmp_path)


@pytest.mark.parametrize("sync", [False, True])
def test_leveldb_is_asked_to_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    database = LevelDatabase(tmp_path)
    level = database._level
    asked: list[bool] = []

    class Observer:
        def write_batch(self, *, sync: bool) -> object:
            asked.append(sync)
            return level.write_batch(sync=sync)

    with monkeypatch.context() as patched:
        patched.setattr(database, "_level", Observer())
        write(database, (b"key", b"value"), sync=sync)
    assert asked == [sync]
    assert database.get(b"key") == b"value"
    database.close()


def test_a_refused_opening_leaves_no_lock(tmp_path: Path) -> None:
    fill(tmp_path)
    current = tmp_path / "CURRENT"
    content = current.read_bytes()
    current.write_bytes(b"garbage")
    for _ in range(2):
        with pytest.raises(DatabaseDamaged):
            LevelDatabase(tmp_path)
    current.write_bytes(content)
    read_all(tmp_path)


def test_damage_never_loses_what_is_left_of_the_files(tmp_path: Path) -> None:
    tables = fill(tmp_path)
    (tmp_path / "CURRENT").unlink()
    with pytest.raises(DatabaseDamaged, match="CURRENT is missing"):
        LevelDatabase(tmp_path)
    assert all(table.exists() for table in tables)


CHILD_WITH_A_FILE_LIMIT = """
import resource, sys
from pathlib import Path
from store.database import Batch, LevelDatabase
from store.errors import DiskFull, StorageClosed

database = LevelDatabase(Path(sys.argv[1]))
durable, refused = Batch(), Batch()
durable.put(b"durable", b"yes")
database.write(durable, sync=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
refused.put(b"refused", bytes(200_000))
try:
    database.write(refused, sync=True)
except DiskFull as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
try:
    database.write(durable, sync=True)
except StorageClosed:
    print("unusable")
print(database.get(b"durable"))
database.close()
"""


def test_a_file_size_limit_is_a_full_disk_and_loses_nothing_durable(tmp_path: Path) -> None:
    output, errors = run_python(CHILD_WITH_A_FILE_LIMIT, tmp_path)
    assert errors == ""
    sentence, state, value = output.splitlines()
    assert "no room" in sentence
    assert "free some space" in sentence
    assert (state, value) == ("unusable", "b'yes'")
    database = LevelDatabase(tmp_path)
    assert database.get(b"durable") == b"yes"
    assert database.get(b"refused") is None
    database.close()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EIO, StorageInaccessible),
        (errno.EACCES, StorageInaccessible),
        (errno.EROFS, StorageInaccessible),
        (errno.EMFILE, StorageInaccessible),
        (errno.ENOENT, DatabaseDamaged),
    ],
)
def test_what_leveldb_says_is_understood(code: int, expected: type[StorageError]) -> None:
    said = plyvel.IOError(f"IO error: /data/000005.log: {os.strerror(code)}".encode())
    translated = translate_level_error(said, Path("/data"))
    assert type(translated) is expected
    assert "/data" in str(translated)
    assert "b'" not in str(translated)


CHILD_THAT_IS_KILLED = """
import sys
from pathlib import Path
from store.database import Batch, LevelDatabase

database = LevelDatabase(Path(sys.argv[1]))
number = 0
while True:
    batch = Batch()
    for part in range(20):
        batch.put(b"%d.%d" % (number, part), bytes(1000))
    batch.put(b"last", b"%d" % number)
    database.write(batch, sync=True)
    sys.stdout.write("%d\\n" % number)
    sys.stdout.flush()
    number += 1
"""


def test_synced_batches_survive_kill_9_whole(tmp_path: Path) -> None:
    with start_python(CHILD_THAT_IS_KILLED, tmp_path) as child:
        assert child.stdout is not None
        for _ in range(30):
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        for line in child.stdout:
            last = int(line) if line.endswith("\n") else last
    database = LevelDisk(tmp_path).reopen()
    stored = int(database.get(b"last") or b"-1")
    assert stored >= last
    assert all(
        database.get(b"%d.%d" % (number, part)) == bytes(1000)
        for number in range(stored + 1)
        for part in range(20)
    )
    assert database.get(b"%d.0" % (stored + 1)) is None
    database.close()


def test_writes_of_two_threads_follow_each_other(tmp_path: Path) -> None:
    # The journal syncs in a thread while the node's own thread writes.
    database = LevelDatabase(tmp_path / "db")

    def write(name: bytes) -> None:
        for number in range(100):
            batch = Batch()
            batch.put(name + number.to_bytes(2, "big"), name)
            database.write(batch, sync=number % 10 == 0)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (b"a", b"b")))
    assert sum(1 for _ in database.iterate(b"a", b"c")) == 200
    database.close()


def test_closing_waits_for_a_write_of_another_thread(tmp_path: Path) -> None:
    """LevelDB itself would crash the process."""
    database = LevelDatabase(tmp_path / "db")
    outcomes: list[type[Exception] | None] = []

    def write() -> None:
        batch = Batch()
        batch.operations += [(b"%d" % number, bytes(1000)) for number in range(20_000)]
        began.set()
        try:
            database.write(batch, sync=True)
            outcomes.append(None)
        except StorageClosed:
            outcomes.append(StorageClosed)

    began = threading.Event()
    writer = threading.Thread(target=write)
    writer.start()
    began.wait()
    time.sleep(0.002)
    database.close()
    writer.join()
    assert outcomes[0] in (None, StorageClosed)
    again = LevelDatabase(tmp_path / "db")
    assert (again.get(b"19999") is None) is (outcomes == [StorageClosed])
    again.close()
