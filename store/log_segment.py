"""The bytes of one segment of the write-ahead log: a header, then frames.

::

    header  magic 4 | version 4 | index 8 | salt 4 | CRC32C of these 20 bytes 4
    frame   salt 4 | CRC32C 4 | length 4 | synced 4 | kind 1 | record (length bytes)

All integers are big-endian and unsigned. A frame's CRC32C covers length, synced, kind and record,
and is seeded with the header's, so that a frame is valid in its own segment only. `synced` is the
number of bytes of the segment that were durable when the frame was written: an unreadable frame
followed by an intact one whose `synced` lies beyond it was once durable, which tells damage from
a torn tail. The salt is drawn at random per segment: nobody from outside can smuggle bytes that
look like a frame into a record.

Owns the format. Never touches a file.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

import google_crc32c
from quorate.chain.parameters import BLOCK_BYTES_MAX

from store.errors import FormatUnknown, LogDamaged

FORMAT_VERSION = 1
RECORD_BYTES_MAX = BLOCK_BYTES_MAX + (1 << 20)
"""A record may hold the largest block and what goes with it."""
SALT_BYTES = 4

_MAGIC = b"QWAL"
_HEADER = Struct(">4sIQ4s")
_CRC = Struct(">I")
_START = Struct(">4sI")
_COVERED = Struct(">IIB")
HEADER_BYTES = _HEADER.size + _CRC.size
FRAME_OVERHEAD_BYTES = _START.size + _COVERED.size


class Kind(IntEnum):
    """What a frame is for."""

    RECORD = 1
    MARK = 2
    """The end of a height, as 8 bytes."""
    SEAL = 3
    """An orderly close: everything before it is durable."""


@dataclass(slots=True, frozen=True)
class Header:
    """What the frames of a segment are checked against.

    Attributes
    ----------
    salt : bytes, 4
        The first bytes of every frame.
    seed : int
        The CRC32C that those of the frames continue.
    """

    salt: bytes
    seed: int


@dataclass(slots=True, frozen=True)
class Frame:
    """One intact frame.

    Attributes
    ----------
    kind : int
        One of `Kind`.
    record : bytes
        At most `RECORD_BYTES_MAX`.
    synced, end : int
        Offsets in the segment, in bytes.
    """

    kind: int
    record: bytes
    synced: int
    end: int


def encode_header(index: int, salt: bytes) -> bytes:
    """Return the header of segment `index`, `HEADER_BYTES` long.

    Parameters
    ----------
    index : int
        The segment's place in the log, from 1.
    salt : bytes, 4
        Random bytes.
    """
    header = _HEADER.pack(_MAGIC, FORMAT_VERSION, index, salt)
    return header + _CRC.pack(google_crc32c.value(header))


def decode_header(data: bytes, index: int, name: str) -> Header:
    """Return what a segment's frames are checked against.

    Parameters
    ----------
    data : bytes
        The segment, whole.
    index : int
        Its place in the log according to its name.
    name : str
        How to call it in a message.

    Raises
    ------
    FormatUnknown
        Another version of this program wrote it.
    LogDamaged
        These are no header bytes, or those of another segment.
    """
    if len(data) < HEADER_BYTES:
        raise LogDamaged(describe_damage(name, 0))
    magic, version, stored_index, salt = _HEADER.unpack_from(data)
    (stored_crc,) = _CRC.unpack_from(data, _HEADER.size)
    seed = google_crc32c.value(data[: _HEADER.size])
    if magic != _MAGIC or seed != stored_crc:
        raise LogDamaged(describe_damage(name, 0))
    if version != FORMAT_VERSION:
        raise FormatUnknown(
            f"{name} has format {version} of the write-ahead log, and this version understands "
            f"format {FORMAT_VERSION}: start the node with the version that wrote it."
        )
    if stored_index != index:
        raise LogDamaged(describe_damage(name, 0))
    return Header(salt, seed)


def encode_frame(header: Header, kind: Kind, record: bytes, synced: int) -> bytes:
    """Return a frame for appending to the segment of `header`.

    Parameters
    ----------
    header : Header
    kind : Kind
    record : bytes
        At most `RECORD_BYTES_MAX`; the caller has checked it.
    synced : int
        How many bytes of this segment are durable now.
    """
    covered = _COVERED.pack(len(record), synced, kind)
    crc = google_crc32c.extend(google_crc32c.extend(header.seed, covered), record)
    return _START.pack(header.salt, crc) + covered + record


def decode_frame(header: Header, data: bytes, offset: int) -> Frame | None:
    """Return the frame that starts at `offset`, or None where no intact frame starts."""
    start = offset + FRAME_OVERHEAD_BYTES
    if start > len(data):
        return None
    salt, stored_crc = _START.unpack_from(data, offset)
    length, synced, kind = _COVERED.unpack_from(data, offset + _START.size)
    end = start + length
    if salt != header.salt or length > RECORD_BYTES_MAX or end > len(data):
        return None
    record = data[start:end]
    covered = data[offset + _START.size : start]
    crc = google_crc32c.extend(google_crc32c.extend(header.seed, covered), record)
    if crc != stored_crc:
        return None
    return Frame(kind, record, synced, end)


def was_durable(header: Header, data: bytes, offset: int) -> bool:
    """Return whether the bytes at `offset`, where no intact frame starts, were durable once.

    They were if any intact frame behind them says so. Otherwise they are a torn tail: what a
    crash left of frames that had never been synced, possibly with later ones whole, since pages
    reach the disk in any order.
    """
    position = data.find(header.salt, offset + 1)
    while position != -1:
        frame = decode_frame(header, data, position)
        if frame is not None and frame.synced > offset:
            return True
        position = data.find(header.salt, position + 1)
    return False


def describe_damage(name: str, offset: int) -> str:
    """Return the sentence about damage before the tail, with the way out."""
    return (
        f"{name} is damaged at byte {offset}, before its tail: restore it from a backup; or move "
        "the log's folder away, keep the validator's last-signed record where it is, and start "
        "the node again once the network has decided the height this node was at."
    )
