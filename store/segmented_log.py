"""The write-ahead log: every input in order, durable before its effects leave the node.

A log is a row of append-only segments. A record is appended to the last one; `sync` makes
everything appended so far durable with one fdatasync. `mark(height)` writes the end of a height,
after which the segments before it may go. CRC32C comes from google-crc32c (the processor's own
instruction where there is one).

What a crash can leave is a torn tail: it is cut when the log is opened. Damage to anything that
had been made durable and is followed by a later record, a mark or an orderly close is never cut:
opening raises, and the message says the way out. A failed write or fdatasync makes the log
unusable until it is opened again, since nobody can tell what reached the disk.

Owns the order and the durability of records. Never looks into one. Not thread-safe: one caller at
a time.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple, Self

from quorate.chain.errors import InvariantError
from quorate.chain.ids import INT64_MAX

from store.errors import FormatUnknown, LogDamaged, LogFull, MarkMissing, StorageClosed
from store.log_segment import (
    FRAME_OVERHEAD_BYTES,
    HEADER_BYTES,
    RECORD_BYTES_MAX,
    SALT_BYTES,
    Frame,
    Header,
    Kind,
    decode_frame,
    decode_header,
    describe_damage,
    encode_frame,
    encode_header,
    was_durable,
)
from store.segment_folder import SegmentFolder

SEGMENT_BYTES_MAX = 16 << 20
"""Default size of a segment; a single larger record has a segment of its own."""
LOG_BYTES_MAX = 4 << 30
"""Default limit of all segments together."""
BUFFER_BYTES_MAX = 256 << 10
"""Appended bytes kept in this process before they are handed to the operating system."""
SEGMENTS_KEPT = 1
"""Default number of segments kept behind the last mark's, to look at after an accident."""

_SEGMENT_BYTES_LIMIT = 1 << 30
_MARK_BYTES = 8


class _Mark(NamedTuple):
    """The end of a height: where the first frame behind it starts."""

    height: int
    segment: int
    offset: int


class SegmentedLog:
    """A write-ahead log over any folder of segments.

    Parameters
    ----------
    folder : SegmentFolder
        Where the segments lie. The log closes it.
    segment_bytes_max : int
        A new segment begins before this many bytes are passed.
    log_bytes_max : int
        All segments together; see `LogFull`.
    segments_kept : int
        How many segments behind the current one `mark` leaves.

    Attributes
    ----------
    bytes_cut : int
        The torn tail that was cut when the log was opened.

    Raises
    ------
    LogDamaged
        Something durable is missing or changed.
    FormatUnknown
        Another version of this program wrote the log.
    DiskFull, StorageInaccessible
    """

    def __init__(
        self,
        folder: SegmentFolder,
        *,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        log_bytes_max: int = LOG_BYTES_MAX,
        segments_kept: int = SEGMENTS_KEPT,
    ) -> None:
        if not HEADER_BYTES < segment_bytes_max <= _SEGMENT_BYTES_LIMIT or segments_kept < 0:
            raise InvariantError(
                f"A log cannot have segments of {segment_bytes_max} bytes, keeping {segments_kept}."
            )
        self.bytes_cut = 0
        self._folder = folder
        self._segment_bytes_max = segment_bytes_max
        self._log_bytes_max = log_bytes_max
        self._segments_kept = segments_kept
        self._buffer = bytearray()
        self._last_mark: _Mark | None = None
        self._needs_seal = False
        self._bytes_before = 0
        self._first = self._last = 1
        self._size = self._synced = 0
        self._is_usable = False
        self._open()
        self._is_usable = True

    @property
    def last_mark(self) -> int | None:
        """The height of the last end-of-height marker, or None when the log holds none."""
        return None if self._last_mark is None else self._last_mark.height

    @property
    def segments(self) -> range:
        """The indices of the segments, oldest first."""
        return range(self._first, self._last + 1)

    @property
    def bytes_total(self) -> int:
        """The bytes of all segments, buffered ones included."""
        return self._bytes_before + self._size

    def append(self, record: bytes) -> None:
        """Append a record. It is durable after the next `sync`.

        Parameters
        ----------
        record : bytes
            At most `RECORD_BYTES_MAX`.

        Raises
        ------
        InvariantError
            The record is too large: its sender's limits are wrong.
        LogFull
            The record was not appended.
        DiskFull, StorageInaccessible, StorageClosed
        """
        self._append(Kind.RECORD, record)

    def mark(self, height: int) -> None:
        """Write the end of a height and remove the segments that nobody needs any more.

        Everything the log held up to here must be durable elsewhere. The marker itself becomes
        durable with the next `sync`; it is synced here only before segments are removed.

        Parameters
        ----------
        height : int
            Usually above the last mark's. After a rollback it may be marked a second time; the
            last marker of a height counts.

        Raises
        ------
        InvariantError
            The height is negative or beyond 63 bits.
        LogFull, DiskFull, StorageInaccessible, StorageClosed
        """
        if not 0 <= height <= INT64_MAX:
            raise InvariantError(f"{height} is no height that a log could mark.")
        self._append(Kind.MARK, height.to_bytes(_MARK_BYTES, "big"))
        self._last_mark = _Mark(height, self._last, self._size)
        if self._last - self._first > self._segments_kept:
            self.sync()
            self._remove_old_segments()

    def flush(self) -> None:
        """Hand appended records to the operating system: they survive a kill, not a power failure.

        Raises
        ------
        DiskFull, StorageInaccessible, StorageClosed
        """
        self._require_usable()
        if self._buffer:
            self._is_usable = False
            self._folder.append(self._buffer)
            self._is_usable = True
            self._buffer.clear()

    def sync(self) -> None:
        """Make everything appended so far durable; without anything new, do nothing.

        Raises
        ------
        DiskFull, StorageInaccessible, StorageClosed
        """
        self.flush()
        if self._synced < self._size:
            self._is_usable = False
            self._folder.sync()
            self._is_usable = True
            self._synced = self._size

    def records(self, from_segment: int | None = None) -> Iterator[bytes]:
        """Iterate over the records in the order of their appending, without markers.

        Consume the iterator before marking a height. One segment at a time is in memory.

        Parameters
        ----------
        from_segment : int, optional
            The first segment to read; the oldest by default.

        Raises
        ------
        LogDamaged
            The disk lost something after the log was opened.
        StorageInaccessible, DiskFull, StorageClosed
        """
        self.flush()
        first = self._first if from_segment is None else max(from_segment, self._first)
        return self._iterate_records(first, HEADER_BYTES)

    def records_since_mark(self, height: int) -> Iterator[bytes]:
        """Iterate over the records appended after the last marker of `height`.

        Raises
        ------
        MarkMissing
            The log has no marker of that height, or its segment was removed.
        LogDamaged, StorageInaccessible, DiskFull, StorageClosed
        """
        self.flush()
        mark = self._find_mark(height)
        if mark is None:
            raise MarkMissing(
                f"The log in {self._folder.get_name(self._first)} and after has no end of height "
                f"{height}: the log and the database do not belong together; restore both from "
                "one backup, or move the log's folder away and start the node again."
            )
        return self._iterate_records(mark.segment, mark.offset)

    def close(self) -> None:
        """Make everything durable, note the orderly end, let go of the folder.

        Closing again does nothing.

        Raises
        ------
        DiskFull, StorageInaccessible
            The folder is let go of all the same.
        """
        try:
            if self._is_usable:
                self.sync()
                if self._needs_seal:
                    # It tells a later opening that all before it was durable.
                    self._append(Kind.SEAL, b"")
                    self.sync()
        finally:
            self._is_usable = False
            self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        indices = self._folder.get_indices()
        if not indices:
            self._create_segment(1)
            return
        self._first, self._last = indices[0], indices[-1]
        if indices != list(self.segments):
            missing = sorted(set(self.segments) - set(indices))[0]
            raise LogDamaged(
                f"{self._folder.get_name(missing)} is missing from the middle of the log: restore "
                "it from a backup; or move the log's folder away, keep the validator's "
                "last-signed record where it is, and start the node again once the network has "
                "decided the height this node was at."
            )
        for index in indices:
            self._check_segment(index)
        self._folder.open(self._last, self._size)
        self._synced = self._size

    def _check_segment(self, index: int) -> None:
        """Read a segment whole; leave in `_size` where its intact frames end."""
        data, header = self._read_segment(index)
        self._bytes_before += self._size
        offset, kind = HEADER_BYTES, None
        while (frame := decode_frame(header, data, offset)) is not None:
            offset, kind = frame.end, frame.kind
            if kind > max(Kind):
                raise FormatUnknown(
                    f"{self._folder.get_name(index)} holds a frame of kind {kind}, which this "
                    "version does not understand: start the node with the version that wrote it."
                )
            if kind == Kind.MARK:
                self._last_mark = _to_mark(frame, index)
        if offset < len(data) and (index < self._last or was_durable(header, data, offset)):
            raise LogDamaged(describe_damage(self._folder.get_name(index), offset))
        self.bytes_cut += len(data) - offset
        self._size = offset
        self._header = header
        self._needs_seal = kind not in (None, Kind.SEAL)

    def _read_segment(self, index: int) -> tuple[bytes, Header]:
        data = self._folder.read(index)
        return data, decode_header(data, index, self._folder.get_name(index))

    def _create_segment(self, index: int) -> None:
        encoded = encode_header(index, os.urandom(SALT_BYTES))
        self._folder.create(index, encoded)
        self._header = decode_header(encoded, index, self._folder.get_name(index))
        self._last = index
        self._size = self._synced = HEADER_BYTES

    def _append(self, kind: Kind, record: bytes) -> None:
        self._require_usable()
        if len(record) > RECORD_BYTES_MAX:
            raise InvariantError(
                f"A record of {len(record)} bytes exceeds the log's {RECORD_BYTES_MAX}."
            )
        frame_bytes = FRAME_OVERHEAD_BYTES + len(record)
        # A marker is admitted beyond the limit, since it is what makes room.
        if kind is Kind.RECORD and self.bytes_total + frame_bytes > self._log_bytes_max:
            raise LogFull(
                f"The log that ends in {self._folder.get_name(self._last)} has reached its limit "
                f"of {self._log_bytes_max} bytes without a decided height: find out why the "
                "network does not decide, raise the limit, and start the node again."
            )
        # A seal stays in its segment: closing must not fail for want of another one.
        is_filled = self._size + frame_bytes > self._segment_bytes_max
        if is_filled and self._size > HEADER_BYTES and kind is not Kind.SEAL:
            self._rotate()
        self._buffer += encode_frame(self._header, kind, record, self._synced)
        self._size += frame_bytes
        self._needs_seal = kind is not Kind.SEAL
        if len(self._buffer) >= BUFFER_BYTES_MAX:
            self.flush()

    def _rotate(self) -> None:
        # Only the last segment may ever have a torn tail.
        self.sync()
        self._is_usable = False
        filled = self._size
        self._create_segment(self._last + 1)
        self._bytes_before += filled
        self._is_usable = True

    def _remove_old_segments(self) -> None:
        """Remove the oldest first, so that a crash leaves no gap."""
        while self._last - self._first > self._segments_kept:
            self._bytes_before -= self._folder.get_size(self._first)
            self._folder.remove(self._first)
            self._first += 1

    def _find_mark(self, height: int) -> _Mark | None:
        if self._last_mark is not None and self._last_mark.height == height:
            return self._last_mark
        found = None
        for index in self.segments:
            for frame in self._iterate_frames(index, HEADER_BYTES):
                if frame.kind == Kind.MARK:
                    mark = _to_mark(frame, index)
                    found = mark if mark.height == height else found
        return found

    def _iterate_records(self, segment: int, offset: int) -> Iterator[bytes]:
        for index in range(segment, self._last + 1):
            for frame in self._iterate_frames(index, offset):
                if frame.kind == Kind.RECORD:
                    yield frame.record
            offset = HEADER_BYTES

    def _iterate_frames(self, index: int, offset: int) -> Iterator[Frame]:
        data, header = self._read_segment(index)
        while offset < len(data):
            frame = decode_frame(header, data, offset)
            if frame is None:
                raise LogDamaged(describe_damage(self._folder.get_name(index), offset))
            offset = frame.end
            yield frame

    def _require_usable(self) -> None:
        if not self._is_usable:
            raise StorageClosed(
                "The write-ahead log is closed, or an earlier write to it failed: start the node "
                "again once the disk has room and works."
            )


def _to_mark(frame: Frame, segment: int) -> _Mark:
    return _Mark(int.from_bytes(frame.record, "big"), segment, frame.end)
