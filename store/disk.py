"""Small durable steps on a file system: write all, make durable, replace a file, lock a folder.

Owns the translation of the operating system's errors into the store's own, and the one right
order of write, fdatasync, rename and fsync of the folder. Never knows what the bytes mean.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quorate.chain.errors import StorageError

from store.errors import DiskFull, StorageInaccessible

TEMPORARY_SUFFIX = ".tmp"
"""The end of the name of a file that is being written; what a crash leaves of it is swept."""

SYNCED_BYTES = 1 << 20
"""Bytes of a new file that are made durable at a time. A log that is synced meanwhile, by this
process or by another on the same file system, waits for what is being written: on a crowded machine
360 to 750 ms behind four files of 40 MB that are each synced once, 60 to 90 ms behind such
parts."""

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

BytesLike = bytes | bytearray | memoryview


def translate_os_error(error: OSError, path: Path) -> StorageError:
    """Return the store's error for an operating-system error, with the way out in its message.

    Parameters
    ----------
    error : OSError
        What the operating system said.
    path : Path
        The file or folder that was being read or written.

    Returns
    -------
    StorageError
        `DiskFull` for ENOSPC, EDQUOT and EFBIG, `StorageInaccessible` for all others.
    """
    reason = error.strerror or str(error)
    if error.errno in _DISK_FULL:
        return DiskFull(
            f"The disk has no room for {path} ({reason}): free some space or raise the limit, "
            "then start the node again; nothing that was made durable is lost."
        )
    if error.errno == errno.EIO:
        return StorageInaccessible(
            f"The disk failed while {path} was in use ({reason}): check the disk's health and "
            "start the node again on a sound one."
        )
    return StorageInaccessible(
        f"{path} cannot be used ({reason}): give the node's user the right to read and write it, "
        "then start the node again."
    )


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn each OSError raised inside into the store's own error about `path`.

    Raises
    ------
    DiskFull, StorageInaccessible
    """
    try:
        yield
    except OSError as error:
        raise translate_os_error(error, path) from error


def write_all(descriptor: int, data: BytesLike) -> None:
    """Write every byte of `data`; a single `os.write` may stop short.

    Raises
    ------
    OSError
        As the operating system raises it; part of the bytes may have been written.
    """
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_all_durably(descriptor: int, data: BytesLike) -> None:
    """Write every byte of `data` and make it durable, `SYNCED_BYTES` at a time.

    Raises
    ------
    OSError
        As the operating system raises it; part of the bytes may have been written.
    """
    rest = memoryview(data).cast("B")
    for start in range(0, len(rest), SYNCED_BYTES):
        write_all(descriptor, rest[start : start + SYNCED_BYTES])
        os.fdatasync(descriptor)
    if not rest:
        os.fdatasync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: files created, renamed or removed in it.

    Raises
    ------
    OSError
        As the operating system raises it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_temporary(path: Path, data: BytesLike) -> None:
    """Write a new file readable by its owner alone, and make its bytes durable.

    Nothing is left of the file when writing fails.

    Raises
    ------
    OSError
        As the operating system raises it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all_durably(descriptor, data)
    except OSError:
        # The failure is what the caller must hear of, not a second one while tidying up.
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: BytesLike) -> None:
    """Give a file new contents, durably: afterwards it holds the old bytes or the new, never less.

    Temporary file, fdatasync, rename, fsync of the folder.

    Parameters
    ----------
    path : Path
        The file; its folder exists. It need not exist itself.
    data : bytes
        All of its new contents.

    Raises
    ------
    DiskFull, StorageInaccessible
        The file keeps its old contents.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with translated_errors(path):
        write_temporary(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, readable by its owner alone; it may exist already.

    Raises
    ------
    StorageInaccessible, DiskFull
    """
    with translated_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)


def sweep_temporary_files(folder: Path) -> int:
    """Remove what crashed writes have left in a folder; return how many files that was.

    Raises
    ------
    StorageInaccessible
    """
    swept = 0
    with translated_errors(folder):
        for path in sorted(folder.glob(f"*{TEMPORARY_SUFFIX}")):
            path.unlink()
            swept += 1
    return swept


def lock_folder(folder: Path) -> int | None:
    """Lock a folder against every other process and every other opener in this one.

    The lock is the kernel's (flock on the folder itself), so that a crash leaves none behind.

    Returns
    -------
    int or None
        A descriptor that holds the lock until it is closed; None when somebody else has it.

    Raises
    ------
    StorageInaccessible
    """
    with translated_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
    return descriptor
