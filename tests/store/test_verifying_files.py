"""Payloads in files are verified by reading: what cannot be read is told, and ends no process."""

import errno
import os
from pathlib import Path

import pytest

from store.errors import PayloadDamaged, StorageInaccessible
from store.payload_contract import Payloads
from store.payload_files import PayloadFiles
from tests.store.disks import FilePayloadDisk, run_python

SIZE = 4 << 20

CHILD_WHOSE_FILE_IS_CUT = """
import hashlib, os, sys
from pathlib import Path
from quorate.chain import content
from store.database import LevelDatabase
from store.errors import PayloadDamaged
from store.payloads import PayloadStore

home, left = Path(sys.argv[1]), int(sys.argv[2])
payloads = PayloadStore(LevelDatabase(home / "database"), home / "payloads")
payload_hash = payloads.put(bytes(4 << 20))
hashed = 0

def cut_after_the_first_chunk(data):
    global hashed
    hashed += 1
    if hashed == 2:
        os.truncate(home / "payloads" / payload_hash.hex(), left)
    return hashlib.sha256(data)

content.sha256 = cut_after_the_first_chunk
try:
    payloads.open_memmap(payload_hash)
except PayloadDamaged as error:
    print(error)
"""


def store_payload(folder: Path, size: int = SIZE) -> tuple[Payloads, bytes]:
    payloads = FilePayloadDisk(folder).reopen()
    return payloads, payloads.put(os.urandom(size))


@pytest.mark.parametrize("left", [0, 100, 1 << 20, (3 << 20) + 5])
def test_a_file_that_is_cut_while_it_is_verified_ends_no_process(tmp_path: Path, left: int) -> None:
    output, errors = run_python(CHILD_WHOSE_FILE_IS_CUT, tmp_path, left)
    assert errors == ""
    assert "is damaged: check the disk, remove the file, and start the node again" in output


def test_a_disk_that_fails_while_a_file_is_verified_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads, payload_hash = store_payload(tmp_path)
    read = os.pread

    def fail_at_the_third_chunk(descriptor: int, length: int, place: int, /) -> bytes:
        if place >= 2 << 20:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, length, place)

    monkeypatch.setattr(os, "pread", fail_at_the_third_chunk)
    with pytest.raises(StorageInaccessible, match=f"The disk failed while .*{payload_hash.hex()}"):
        payloads.open_memmap(payload_hash)
    monkeypatch.undo()
    assert payloads.open_memmap(payload_hash) is not None


def test_a_file_that_is_cut_before_it_is_mapped_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads, payload_hash = store_payload(tmp_path)
    look = PayloadFiles.size

    def look_before_it_is_cut(files: PayloadFiles, asked: bytes) -> int | None:
        size = look(files, asked)
        os.truncate(tmp_path / "payloads" / asked.hex(), SIZE - 1)
        return size

    monkeypatch.setattr(PayloadFiles, "size", look_before_it_is_cut)
    with pytest.raises(PayloadDamaged, match=payload_hash.hex()):
        payloads.open_memmap(payload_hash, verify=False)


def test_a_payload_that_is_dropped_while_it_is_verified_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads, payload_hash = store_payload(tmp_path)
    read = os.pread

    def drop_at_the_third_chunk(descriptor: int, length: int, place: int, /) -> bytes:
        if place == 2 << 20:
            payloads.delete(payload_hash)
        return read(descriptor, length, place)

    monkeypatch.setattr(os, "pread", drop_at_the_third_chunk)
    assert payloads.open_memmap(payload_hash) is None


def read_resident_file_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not tell RssFile")


def test_verifying_a_file_keeps_nothing_of_it_resident(tmp_path: Path) -> None:
    payloads, payload_hash = store_payload(tmp_path, 32 << 20)
    before = read_resident_file_bytes()
    array = payloads.open_memmap(payload_hash)
    assert array is not None
    assert read_resident_file_bytes() - before < 1 << 20
