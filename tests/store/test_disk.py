"""Durable steps on the file system, and what its errors become."""

import errno
import os
from pathlib import Path

import pytest

from store.disk import (
    SYNCED_BYTES,
    lock_folder,
    make_folder,
    replace_file,
    sweep_temporary_files,
    translate_os_error,
    translated_errors,
    write_all,
    write_temporary,
)
from store.errors import DiskFull, StorageInaccessible


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_the_way_out(code: int) -> None:
    error = translate_os_error(OSError(code, os.strerror(code)), Path("/home/data"))
    assert type(error) is DiskFull
    assert str(error).startswith(f"The disk has no room for /home/data ({os.strerror(code)}): free")


@pytest.mark.parametrize(
    ("code", "way_out"),
    [
        (errno.EIO, "check the disk's health"),
        (errno.EACCES, "give the node's user the right"),
        (errno.EROFS, "give the node's user the right"),
    ],
)
def test_other_errors_are_told_with_the_way_out(code: int, way_out: str) -> None:
    error = translate_os_error(OSError(code, os.strerror(code)), Path("/home/data"))
    assert type(error) is StorageInaccessible
    assert way_out in str(error)


def test_a_device_without_room() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(DiskFull, match="No space left"), translated_errors(Path("/dev/full")):
        write_all(descriptor, b"data")
    os.close(descriptor)


def test_writing_goes_on_after_writes_of_one_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:1]))
    replace_file(tmp_path / "record", b"data")
    assert (tmp_path / "record").read_bytes() == b"data"


def test_replacing_a_file(tmp_path: Path) -> None:
    path = tmp_path / "record"
    replace_file(path, b"first")
    replace_file(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fdatasync", "write"])
def test_a_failed_replacement_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "record"
    replace_file(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, refuse)
        with pytest.raises(DiskFull):
            replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_are_durable_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    path = tmp_path / "record"
    for name in ("fdatasync", "fsync"):
        real = getattr(os, name)

        def observe(descriptor: int, name: str = name, real: object = real) -> None:
            steps.append(f"{name} {'after' if path.exists() else 'before'} the rename")
            assert callable(real)
            real(descriptor)

        monkeypatch.setattr(os, name, observe)
    replace_file(path, b"data")
    assert steps == ["fdatasync before the rename", "fsync after the rename"]


@pytest.mark.parametrize("size", [0, 1, SYNCED_BYTES, 2 * SYNCED_BYTES + 3])
def test_a_long_file_becomes_durable_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "long.tmp"
    synced: list[int] = []
    real = os.fdatasync

    def observe(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", observe)
    data = os.urandom(size)
    write_temporary(path, data)
    assert path.read_bytes() == data
    # Whoever else syncs waits behind one part at most, and the last sync covers everything.
    steps = [after - before for before, after in zip([0, *synced], synced, strict=False)]
    assert max(steps) <= SYNCED_BYTES
    assert synced[-1] == size


def test_only_temporary_files_are_swept(tmp_path: Path) -> None:
    write_temporary(tmp_path / "half.tmp", b"")
    write_temporary(tmp_path / "whole", b"")
    assert sweep_temporary_files(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_locked_folder_is_locked_until_the_lock_is_closed(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    assert lock is not None
    assert lock_folder(tmp_path) is None
    os.close(lock)
    again = lock_folder(tmp_path)
    assert again is not None
    os.close(again)


def test_folders_are_private(tmp_path: Path) -> None:
    make_folder(tmp_path / "home" / "data")
    make_folder(tmp_path / "home" / "data")
    assert (tmp_path / "home" / "data").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageInaccessible, match="absent"):
        lock_folder(tmp_path / "absent")
    with pytest.raises(StorageInaccessible, match="absent"):
        replace_file(tmp_path / "absent" / "record", b"")
