"""Where the segments of the write-ahead log lie: a folder of files, or the memory of a test.

Owns creating, reading, extending, cutting and removing segments by their index, and which of their
bytes would survive a crash. Never looks at the bytes.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from store.disk import (
    TEMPORARY_SUFFIX,
    BytesLike,
    lock_folder,
    make_folder,
    sweep_temporary_files,
    sync_folder,
    translated_errors,
    write_all,
    write_temporary,
)
from store.errors import LogLocked

_SUFFIX = ".wal"
_DIGITS = 12


class SegmentFolder(Protocol):
    """The segments of one log. The one created or opened last takes the appended bytes."""

    def get_name(self, index: int) -> str:
        """Return how to call a segment in a message."""
        ...

    def get_indices(self) -> list[int]:
        """Return the indices of all segments, ascending."""
        ...

    def get_size(self, index: int) -> int:
        """Return the bytes in a segment."""
        ...

    def read(self, index: int) -> bytes:
        """Return all bytes of a segment."""
        ...

    def create(self, index: int, header: bytes) -> None:
        """Create a segment that holds `header`, durably or not at all, and append to it next."""
        ...

    def open(self, index: int, size: int) -> None:
        """Cut a segment to its first `size` bytes, make these durable, and append to it next."""
        ...

    def append(self, data: BytesLike) -> None:
        """Hand bytes to the operating system: they survive this process, not a power failure."""
        ...

    def sync(self) -> None:
        """Make everything appended so far durable."""
        ...

    def remove(self, index: int) -> None:
        """Remove a segment."""
        ...

    def close(self) -> None:
        """Let go of files and locks."""
        ...


class FileSegmentFolder:
    """Segments as files ``000000000001.wal`` of a folder that one process at a time may use.

    Parameters
    ----------
    folder : Path
        Created when absent.

    Raises
    ------
    LogLocked
        Another process, or another log of this one, uses the folder.
    StorageInaccessible
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = -1
        make_folder(folder)
        lock = lock_folder(folder)
        if lock is None:
            raise LogLocked(
                f"The log in {folder} is in use by another process: stop that one first, or give "
                "this node a home folder of its own."
            )
        self._lock = lock
        sweep_temporary_files(folder)

    def get_name(self, index: int) -> str:
        """Return the segment's path."""
        return str(self._get_path(index))

    def get_indices(self) -> list[int]:
        """Return the indices of all segments, ascending. Other files are left alone."""
        with translated_errors(self._folder):
            names = [path.stem for path in self._folder.glob(f"*{_SUFFIX}")]
        return sorted(int(name) for name in names if len(name) == _DIGITS and name.isdecimal())

    def get_size(self, index: int) -> int:
        """Return the bytes in a segment."""
        path = self._get_path(index)
        with translated_errors(path):
            return path.stat().st_size

    def read(self, index: int) -> bytes:
        """Return all bytes of a segment."""
        path = self._get_path(index)
        with translated_errors(path):
            return path.read_bytes()

    def create(self, index: int, header: bytes) -> None:
        """Create a segment by renaming a durable file, so that no crash leaves half a header."""
        path = self._get_path(index)
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        with translated_errors(path):
            write_temporary(temporary, header)
            temporary.rename(path)
            sync_folder(self._folder)
            self._open_for_append(path)

    def open(self, index: int, size: int) -> None:
        """Cut a segment, make the rest durable, and append to it next."""
        path = self._get_path(index)
        with translated_errors(path):
            self._open_for_append(path)
            os.ftruncate(self._descriptor, size)
            # Not fdatasync: a cut tail must not come back.
            os.fsync(self._descriptor)

    def append(self, data: BytesLike) -> None:
        """Write to the segment created or opened last."""
        with translated_errors(self._folder):
            write_all(self._descriptor, data)

    def sync(self) -> None:
        """Wait until the disk has everything (fdatasync)."""
        with translated_errors(self._folder):
            os.fdatasync(self._descriptor)

    def remove(self, index: int) -> None:
        """Remove a segment; after a crash it may be back."""
        path = self._get_path(index)
        with translated_errors(path):
            path.unlink()

    def close(self) -> None:
        """Close the files and release the lock; closing again does nothing."""
        for descriptor in (self._descriptor, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lock = -1

    def _get_path(self, index: int) -> Path:
        return self._folder / f"{index:0{_DIGITS}d}{_SUFFIX}"

    def _open_for_append(self, path: Path) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


def read_segments(folder: Path) -> dict[int, bytes]:
    """Return the bytes of all segments in a folder, by index, without taking hold of it.

    Raises
    ------
    StorageInaccessible
    """
    with translated_errors(folder):
        paths = {path.stem: path for path in folder.glob(f"*{_SUFFIX}")}
        return {
            int(name): path.read_bytes()
            for name, path in sorted(paths.items())
            if len(name) == _DIGITS and name.isdecimal()
        }


class MemorySegmentFolder:
    """Segments in memory, which remember how much of each a power failure would spare.

    Parameters
    ----------
    segments : mapping of int to bytes, optional
        What is there already, by index; durable.
    """

    def __init__(self, segments: Mapping[int, bytes] | None = None) -> None:
        given = segments or {}
        self._segments = {index: bytearray(data) for index, data in given.items()}
        self._synced = {index: len(data) for index, data in given.items()}
        self._current = 0

    def reopen(self, *, power_failed: bool = False) -> "MemorySegmentFolder":
        """Return the folder as the next process finds it.

        Parameters
        ----------
        power_failed : bool
            Whether bytes that were not synced are gone, too.
        """
        successor = MemorySegmentFolder()
        for index, segment in self._segments.items():
            size = self._synced[index] if power_failed else len(segment)
            successor._segments[index] = segment[:size]
            successor._synced[index] = size
        return successor

    def get_name(self, index: int) -> str:
        """Return how to call a segment in a message."""
        return f"segment {index} in memory"

    def get_indices(self) -> list[int]:
        """Return the indices of all segments, ascending."""
        return sorted(self._segments)

    def get_size(self, index: int) -> int:
        """Return the bytes in a segment."""
        return len(self._segments[index])

    def read(self, index: int) -> bytes:
        """Return all bytes of a segment."""
        return bytes(self._segments[index])

    def create(self, index: int, header: bytes) -> None:
        """Create a segment and append to it next."""
        self._segments[index] = bytearray(header)
        self._synced[index] = len(header)
        self._current = index

    def open(self, index: int, size: int) -> None:
        """Cut a segment and append to it next."""
        del self._segments[index][size:]
        self._synced[index] = size
        self._current = index

    def append(self, data: BytesLike) -> None:
        """Append to the segment created or opened last."""
        self._segments[self._current] += data

    def sync(self) -> None:
        """Remember that everything appended so far is durable."""
        self._synced[self._current] = len(self._segments[self._current])

    def remove(self, index: int) -> None:
        """Remove a segment."""
        del self._segments[index], self._synced[index]

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""
