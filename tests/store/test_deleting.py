"""Payloads that are deleted where nobody may wait for the file system to free them."""

import re
from pathlib import Path

import pytest

from store import payload_files
from store.payload_contract import Payloads
from tests.store.disks import FilePayloadDisk, PayloadDisk

# The files of these tests begin at 101 bytes.
SIZES = [1, 100, 101, 5000]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_deleted_lazily_is_gone_at_once_and_can_come_again(
    payload_disk: PayloadDisk, size: int
) -> None:
    payloads = payload_disk.reopen()
    payload_hash = payloads.put(bytes(size))
    assert payloads.delete(payload_hash, is_lazy=True)
    assert not payloads.has(payload_hash)
    assert payloads.get_chunk_hashes(payload_hash) is None
    assert payloads.bytes_total == 0
    assert not payloads.delete(payload_hash, is_lazy=True)
    assert payloads.put(bytes(size)) == payload_hash
    free_all(payloads)
    assert payloads.get(payload_hash) == bytes(size)
    assert payload_disk.reopen().get(payload_hash) == bytes(size)


@pytest.mark.parametrize("is_crashed", [False, True])
def test_a_file_that_is_deleted_lazily_is_freed_later(tmp_path: Path, is_crashed: bool) -> None:
    """A file system takes a tenth of a second and more for one of several hundred megabytes."""
    disk = FilePayloadDisk(tmp_path)
    payloads = disk.reopen()
    for number in range(3):
        payloads.delete(payloads.put(bytes([number]) * 5000), is_lazy=True)
    assert count_files(tmp_path) == 3
    if is_crashed:
        payloads = disk.reopen()
    free_all(payloads)
    assert count_files(tmp_path) == 0


def test_deleted_files_that_wait_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload_files, "DELETED_MAX", 2)
    payloads = FilePayloadDisk(tmp_path).reopen()
    for number in range(4):
        assert payloads.delete(payloads.put(bytes([number]) * 5000), is_lazy=True)
    assert count_files(tmp_path) == 2
    free_all(payloads)
    assert count_files(tmp_path) == 0


def free_all(payloads: Payloads) -> None:
    while payloads.free_deleted():
        pass


def count_files(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if re.match("[0-9a-f]{64}", path.name))
