"""A file for one small record that is replaced often: durable with one sync, whole at every moment.

Replacing a file by renaming another costs two commits of the file system's journal. Here the new
record overwrites, in place, the older one of two slots, never the newest, so that a crash in the
middle leaves that one as it was. A slot has the record twice, in pages of its own: one of them may
be damaged on the disk without the newest record being taken for a write that a crash has torn.

::

    cell 0, cell 1    slot 0, both copies of a record with an even number
    cell 2, cell 3    slot 1, both copies of a record with an odd number

A cell is a magic, the record's number and length, the record, and a CRC-32C of all of these. What
is behind it in the cell has no meaning.

Owns this format. Never knows what a record says.
"""

import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

import google_crc32c

from store import disk
from store.disk import replace_file, translated_errors

CELL_BYTES: Final = 20_480
"""Whole pages of any size up to 4 KiB."""
CELLS: Final = 4
FILE_BYTES: Final = CELLS * CELL_BYTES

_MAGIC: Final = b"QSLOT\x001\n"
_HEAD: Final = struct.Struct(">8sQI")
_CRC: Final = struct.Struct(">I")
RECORD_BYTES_MAX: Final = CELL_BYTES - _HEAD.size - _CRC.size


class SlottedRecord(NamedTuple):
    """The newest record of a file.

    Attributes
    ----------
    number : int
        One more than that of the record before it.
    data : bytes
    """

    number: int
    data: bytes


def create_slotted(path: Path, data: bytes) -> SlottedRecord:
    """Make `path` a file with one record, durably, whatever it was before.

    Raises
    ------
    DiskFull, StorageInaccessible
    """
    cell, number = _pack(1, data), 1
    content = bytearray(FILE_BYTES)
    for place in _get_places(number):
        content[place : place + len(cell)] = cell
    replace_file(path, content)
    return SlottedRecord(number, data)


def write_slotted(path: Path, last: SlottedRecord, data: bytes) -> SlottedRecord:
    """Make `data` the newest record of a file, durably; `last` is the newest until now.

    If it fails, the newest record is one of the two.

    Raises
    ------
    DiskFull, StorageInaccessible
    """
    number = last.number + 1
    cell = _pack(number, data)
    with translated_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for place in _get_places(number):
                os.lseek(descriptor, place, os.SEEK_SET)
                disk.write_all(descriptor, cell)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    return SlottedRecord(number, data)


def decode_slotted(raw: bytes) -> SlottedRecord | None:
    """Return the newest record of a file's bytes, or None if they have none, or another length."""
    if len(raw) != FILE_BYTES:
        return None
    found = [
        record
        for index in range(CELLS)
        if (record := _unpack(raw[index * CELL_BYTES : (index + 1) * CELL_BYTES])) is not None
        and index // 2 == record.number % 2
    ]
    return max(found, default=None)


def _get_places(number: int) -> tuple[int, int]:
    first = number % 2 * 2 * CELL_BYTES
    return first, first + CELL_BYTES


def _pack(number: int, data: bytes) -> bytes:
    if len(data) > RECORD_BYTES_MAX:
        raise ValueError(f"a record of {len(data)} bytes exceeds {RECORD_BYTES_MAX}")
    body = _HEAD.pack(_MAGIC, number, len(data)) + data
    return body + _CRC.pack(google_crc32c.value(body))


def _unpack(cell: bytes) -> SlottedRecord | None:
    magic, number, length = _HEAD.unpack_from(cell)
    if magic != _MAGIC or length > RECORD_BYTES_MAX:
        return None
    end = _HEAD.size + length
    (crc,) = _CRC.unpack_from(cell, end)
    if crc != google_crc32c.value(cell[:end]):
        return None
    return SlottedRecord(number, cell[_HEAD.size : end])
