"""A database that has lost synced writes says so, and a sound one is never accused."""

import os
import shutil
from pathlib import Path

import pytest

from store.database import Batch
from store.errors import DatabaseDamaged, DatabaseLocked, DiskFull, StorageClosed
from store.witnessed_database import COUNT_KEY, WITNESS_NAME, WitnessedDatabase

WAY_OUT = "ask the users again"
WRITES = 6


def put(database: WitnessedDatabase, number: int, *, sync: bool = True) -> None:
    batch = Batch()
    batch.put(b"%d" % number, b"x" * 50)
    database.write(batch, sync=sync)
    assert len(batch.operations) == 1


def read(database: WitnessedDatabase) -> list[bytes]:
    return [key for key, _ in database.iterate(b"", b"\xff")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A database as a kill leaves it: all in its log, nothing in tables."""
    database = WitnessedDatabase(tmp_path / "whole", WAY_OUT)
    for number in range(WRITES):
        put(database, number)
    copied = tmp_path / "db"
    shutil.copytree(tmp_path / "whole", copied)
    database.close()
    return copied


def find_log(folder: Path) -> Path:
    (log,) = folder.glob("*.log")
    return log


def test_what_was_written_is_there_again(folder: Path) -> None:
    for _ in range(2):
        database = WitnessedDatabase(folder, WAY_OUT)
        assert read(database) == [b"%d" % number for number in range(WRITES)]
        assert next(database.iterate(b"", b"\xff", reverse=True))[0] == b"5"
        assert database.get(b"3") == b"x" * 50
        with pytest.raises(DatabaseLocked):
            WitnessedDatabase(folder, WAY_OUT)
        database.close()
        database.close()
    with pytest.raises(StorageClosed):
        put(database, 9)


def test_a_log_that_was_cut_is_damage(folder: Path, tmp_path: Path) -> None:
    whole = find_log(folder).read_bytes()
    for size in (*range(0, len(whole), 37), *range(len(whole) - 8, len(whole))):
        copied = tmp_path / "cut"
        shutil.copytree(folder, copied)
        find_log(copied).write_bytes(whole[:size])
        with pytest.raises(DatabaseDamaged, match=f"of 6 synced writes .* or {WAY_OUT}"):
            WitnessedDatabase(copied, WAY_OUT)
        shutil.rmtree(copied)


def test_a_log_that_is_gone_is_damage(folder: Path) -> None:
    find_log(folder).unlink()
    for _ in range(2):
        with pytest.raises(DatabaseDamaged, match="of 6 synced writes it knows 0"):
            WitnessedDatabase(folder, WAY_OUT)


def test_what_was_not_synced_may_be_lost(folder: Path) -> None:
    database = WitnessedDatabase(folder, WAY_OUT)
    put(database, 7, sync=False)
    copied = folder.parent / "copy"
    shutil.copytree(folder, copied)
    database.close()
    log = find_log(copied)
    os.truncate(log, 0)
    database = WitnessedDatabase(copied, WAY_OUT)
    assert read(database) == [b"%d" % number for number in range(WRITES)]
    database.close()


@pytest.mark.parametrize("left", [b"", b"\x00", b"\xff" * 12, None])
def test_a_witness_that_says_nothing_accuses_nobody(folder: Path, left: bytes | None) -> None:
    witness = folder / WITNESS_NAME
    if left is None:
        witness.unlink()
    else:
        witness.write_bytes(left)
    database = WitnessedDatabase(folder, WAY_OUT)
    put(database, 8)
    database.close()
    assert len(witness.read_bytes()) == 12
    database = WitnessedDatabase(folder, WAY_OUT)
    assert len(read(database)) == WRITES + 1
    database.close()


def test_a_witness_behind_the_database_is_believed_no_less(folder: Path) -> None:
    """So a power failure may leave it: the database was synced, the witness was not."""
    old = (folder / WITNESS_NAME).read_bytes()
    database = WitnessedDatabase(folder, WAY_OUT)
    put(database, 8)
    database.close()
    (folder / WITNESS_NAME).write_bytes(old)
    database = WitnessedDatabase(folder, WAY_OUT)
    assert database.get(COUNT_KEY) == (WRITES + 1).to_bytes(8, "big")
    database.close()


def test_a_witness_that_cannot_be_written_fails_the_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = WitnessedDatabase(folder, WAY_OUT)

    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr("store.disk.write_all", fail)
        with pytest.raises(DiskFull, match="free some space"):
            put(database, 8)
    put(database, 9)
    database.close()
    WitnessedDatabase(folder, WAY_OUT).close()
